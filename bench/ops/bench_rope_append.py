"""Benchmark of rope_append: one layer's q, k, v of one slot."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ._bench import Case, Model, bf16, i32, main, nbytes

S, PREFIX = 2048, 1000


def cases(m: Model, N: int) -> Iterator[Case]:
    """N tree nodes behind a prefix."""
    cos_SE, sin_SE = torch.randn(S, m.E // 2), torch.randn(S, m.E // 2)
    qkv_RX, q_BNHE = bf16(N, (m.H + 2 * m.G) * m.E), bf16(1, N, m.H, m.E)
    cache = (bf16(1, m.G, S, m.E), bf16(1, m.G, S, m.E))
    positions_BN = i32(torch.arange(PREFIX, PREFIX + N)[None])
    args = (qkv_RX, positions_BN, i32([PREFIX]), cos_SE, sin_SE, *cache, q_BNHE)
    moved = 2 * nbytes(qkv_RX) + 2 * N * cos_SE[0].nbytes
    yield Case(m.name, N, f"{m.H}+2*{m.G} heads of {m.E}", lambda: (args, {}), moved, torch=plain)


def plain(
    qkv_RX: Tensor, positions_BN: Tensor, prefix_B: Tensor, cos_SE: Tensor, sin_SE: Tensor, k_BGSE: Tensor,
    v_BGSE: Tensor, q_BNHE: Tensor,
) -> None:  # fmt: skip
    """x * cos + rotate_half(x) * sin in bf16 and slices of the cache, as models write it; the prefix is known."""
    (_, N, H, E), G = q_BNHE.shape, k_BGSE.shape[1]
    heads_XNE = qkv_RX.view(N, H + 2 * G, E).transpose(0, 1)
    cos_NE, sin_NE = (table[positions_BN[0]].to(qkv_RX.dtype).repeat(1, 2) for table in (cos_SE, sin_SE))
    x_XNE = heads_XNE[: H + G]
    first_XNE, second_XNE = x_XNE.chunk(2, dim=2)
    y_XNE = x_XNE * cos_NE + torch.cat((-second_XNE, first_XNE), dim=2) * sin_NE
    q_BNHE.copy_(y_XNE[:H].transpose(0, 1))
    k_BGSE[0, :, PREFIX : PREFIX + N] = y_XNE[H:]
    v_BGSE[0, :, PREFIX : PREFIX + N] = heads_XNE[H + G :]


if __name__ == "__main__":
    main("rope_append", cases)
