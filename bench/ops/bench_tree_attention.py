"""Benchmark of tree_attention: one layer, one slot, a binary tree behind prefixes of several lengths."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import Case, Model, bf16, i32, main

PREFIXES = (128, 512, 2048)


def tree_words(N: int) -> torch.Tensor:
    """Ancestor words of the binary tree with N nodes, breadth first."""
    words = [1]
    for n in range(1, N):
        words.append(words[(n - 1) // 2] | 1 << n)
    return torch.tensor([word - (1 << 64) if word >> 63 else word for word in words])[None]


def cases(m: Model, N: int) -> Iterator[Case]:
    """N tree nodes; counted are the keys and values a slot holds, once."""
    for prefix in PREFIXES:
        cache = (bf16(1, m.G, prefix + 64, m.E), bf16(1, m.G, prefix + 64, m.E))
        q_BNHE = bf16(1, N, m.H, m.E)
        args = (q_BNHE, *cache, i32([prefix]), tree_words(N), torch.empty_like(q_BNHE))
        size = 2 * q_BNHE.nbytes + 2 * m.G * (prefix + N) * m.E * 2
        options = {"scale": m.E**-0.5}
        yield Case(m.name, N, f"prefix {prefix}", lambda a=args, o=options: (a, o), size)


if __name__ == "__main__":
    main("tree_attention", cases)
