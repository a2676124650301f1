"""Benchmark of tree_attention: one layer, one slot, a binary tree behind prefixes of several lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ._bench import Case, Model, bf16, i32, main

PREFIXES = (128, 512, 2048)


def tree_words(N: int) -> Tensor:
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
        plain = plain_attention(prefix, args[4])
        yield Case(m.name, N, f"prefix {prefix}", lambda a=args, o=options: (a, o), size, torch=plain)


def plain_attention(prefix: int, words_BN: Tensor) -> Callable[..., None]:
    """torch's attention with a mask, made beforehand, over the rows that are in use."""
    N = words_BN.shape[1]
    tree_NN = (words_BN[0, :, None] >> torch.arange(N)) & 1 == 1
    mask_NS = torch.cat([torch.ones(N, prefix, dtype=torch.bool), tree_NN], dim=1)

    def plain(
        q_BNHE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, prefix_B: Tensor, words_BN: Tensor, out: Tensor, scale: float
    ) -> None:
        rows = (x[:, :, : prefix + N] for x in (k_BGSE, v_BGSE))
        F.scaled_dot_product_attention(
            q_BNHE.transpose(1, 2), *rows, attn_mask=mask_NS, scale=scale, enable_gqa=True
        ).transpose(1, 2)

    return plain


if __name__ == "__main__":
    main("tree_attention", cases)
