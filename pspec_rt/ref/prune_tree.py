"""prune_tree in plain PyTorch: the draft tree out of a pool of candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from ._index import arange


def prune_tree(
    pool_ids_BGC: Tensor,
    pool_scores_BGC: Tensor,
    origin_BG: Tensor,
    bonus_B: Tensor,
    length_B: Tensor,
    ids_BN: Tensor,
    parent_BN: Tensor,
    depth_BN: Tensor,
    words_BN: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    noise_row_BN: Tensor,
    *,
    noise_stride: int,
    picks_N: Tensor | None = None,
) -> None:
    """The N - 1 best entries, or the picked ones, as nodes; see `pspec_rt.ops.prune_tree`."""
    (B, _, C), N, device = pool_ids_BGC.shape, ids_BN.shape[1], ids_BN.device
    slot_B = arange(B, device)
    if picks_N is None:
        best_BX = pool_scores_BGC.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, : N - 1]
        entry_BX = best_BX.sort(dim=1).values
    else:
        entry_BX = picks_N[1:].long().expand(B, N - 1)
    node_BY = torch.zeros(B, pool_ids_BGC[0].numel(), dtype=torch.int64, device=device)  # node of a taken entry
    node_BY.scatter_(1, entry_BX, (arange(N - 1, device) + 1).expand(B, N - 1))
    row_BX = entry_BX // C
    above_BX = node_BY.gather(1, origin_BG.long().gather(1, row_BX))
    ids_BN[:, 0], ids_BN[:, 1:] = bonus_B, pool_ids_BGC.flatten(1).gather(1, entry_BX)
    parent_BN[:, 0], parent_BN[:, 1:] = -1, torch.where(row_BX == 0, 0, above_BX)
    depth_BN[:, 0], words_BN[:, 0] = 0, 1
    for n in range(1, N):
        parent_B = parent_BN[:, n].long()
        depth_BN[:, n] = depth_BN[slot_B, parent_B] + 1
        words_BN[:, n] = words_BN[slot_B, parent_B] | (1 << n if n < 63 else -(1 << 63))
    prefix_B.copy_(length_B - 1)
    torch.add(depth_BN, prefix_B[:, None], out=positions_BN)
    noise_row_BN.copy_(depth_BN + (slot_B * noise_stride)[:, None])
