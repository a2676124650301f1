"""Benchmark of draft_forward: a one-layer drafter of a model with its whole vocabulary, and one reduced to 32k."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pspec_rt.ops.draft_forward import DraftHead

from ._bench import Case, Model, bf16, i32, main, nbytes, weights

PREFIX, REDUCED, CANDIDATES = 1024, 32000, 8


def cases(m: Model, K: int) -> Iterator[Case]:
    """K depths of one slot: K + 1 rows of accepted tokens, K - 1 masks, 1024 rows in the cache."""
    P, J, X = K + 1, K - 1, (m.H + 2 * m.G) * m.E
    N, S = P + J, PREFIX + 64
    if N > 64 or m.E not in (64, 128):
        return
    turn_SE = torch.rand(S, m.E // 2)
    causal = [(1 << (n + 1)) - 1 for n in range(N)]
    words_BN = torch.tensor([[word - (1 << 64) if word >> 63 else word for word in causal]])
    rows = (i32([[n % m.V for n in range(P)]]), bf16(1, P, m.M), bf16(J, m.M), i32([[PREFIX + n for n in range(N)]]))
    caches = (bf16(1, m.G, S, m.E), bf16(1, m.G, S, m.E))
    for D in sorted({min(REDUCED, m.V), m.V}):
        id_map_D = i32(range(D)) if m.V > D else None
        out = (i32(torch.zeros(K, CANDIDATES)), torch.zeros(K, CANDIDATES))
        shapes = ((m.M, 2 * m.M), (X, m.M), (m.M, m.H * m.E), (2 * m.I, m.M), (m.M, m.I), (D, m.M))

        def make(shapes: tuple = shapes, out: tuple = out, id_map_D: torch.Tensor | None = id_map_D) -> tuple:
            fc, qkv, o, gate_up, down, head = (weights(*shape) for shape in shapes)
            norms = (bf16(m.M), bf16(m.M), bf16(m.M))
            drafter = DraftHead(
                fc, None, weights(m.V, m.M), norms[0], qkv, o, norms[1], gate_up, down, norms[2], head,
                turn_SE, turn_SE, 1e-5,
            )  # fmt: skip
            place = (i32([PREFIX]), words_BN, i32([[P - 1, *range(P, N)]]))
            return (drafter, *rows, *place, *caches, *out), {"id_map_D": id_map_D}

        size = 2 * sum(a * b for a, b in shapes)
        yield Case(m.name, K, f"{N} rows, {D} tokens", make, size + nbytes(*caches), weights=size)


if __name__ == "__main__":
    main("draft_forward", cases, rows=(4, 8))
