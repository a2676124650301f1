"""Benchmark of rope_append: one layer's q, k, v of one slot."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import Case, Model, bf16, i32, main, nbytes

S = 2048


def cases(m: Model, N: int) -> Iterator[Case]:
    """N tree nodes behind a prefix of 1000."""
    cos_SE, sin_SE = torch.randn(S, m.E // 2), torch.randn(S, m.E // 2)
    qkv_RX, q_BNHE = bf16(N, (m.H + 2 * m.G) * m.E), bf16(1, N, m.H, m.E)
    cache = (bf16(1, m.G, S, m.E), bf16(1, m.G, S, m.E))
    positions_BN = i32(torch.arange(1000, 1000 + N)[None])
    args = (qkv_RX, positions_BN, i32([1000]), cos_SE, sin_SE, *cache, q_BNHE)
    moved = 2 * nbytes(qkv_RX) + 2 * N * cos_SE[0].nbytes
    yield Case(m.name, N, f"{m.H}+2*{m.G} heads of {m.E}", lambda: (args, {}), moved)


if __name__ == "__main__":
    main("rope_append", cases)
