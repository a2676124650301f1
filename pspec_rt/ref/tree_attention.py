"""tree_attention in plain PyTorch: score every cache row, mask those a node may not see."""

from __future__ import annotations

import torch
from torch import Tensor

from ._index import arange


def tree_attention(
    q_BNHE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    out_BNHE: Tensor,
    *,
    scale: float,
    window: int = 0,
    block_table_BT: Tensor | None = None,
) -> None:
    """softmax(q k^T scale) v over prefix and ancestors; see `pspec_rt.ops.tree_attention`."""
    if block_table_BT is not None:
        k_BGSE, v_BGSE = _joined_pages(k_BGSE, block_table_BT), _joined_pages(v_BGSE, block_table_BT)
    (B, N, H, E), (G, S) = q_BNHE.shape, k_BGSE.shape[1:3]
    seen_BNS = _visible(prefix_B, words_BN, S, window)
    seen_BGXS = seen_BNS[:, None, :, None].expand(B, G, N, H // G, S).reshape(B, G, N * (H // G), S)
    # Query head h reads KV head h // (H/G): bring the heads of a group next to its rows, X = N *
    # H/G.
    q_BGXE = q_BNHE.float().view(B, N, G, H // G, E).transpose(1, 2).reshape(B, G, N * (H // G), E)
    scores_BGXS = (q_BGXE @ k_BGSE.float().transpose(2, 3)) * scale
    scores_BGXS = torch.where(seen_BGXS, scores_BGXS, float("-inf"))
    weights_BGXS = torch.where(seen_BGXS, torch.softmax(scores_BGXS, dim=-1), 0.0)
    out_BGXE = _weighted_sum(weights_BGXS, seen_BGXS, v_BGSE.float())
    out_BNHE.copy_(out_BGXE.view(B, G, N, H // G, E).transpose(1, 2).reshape(B, N, H, E))


def _joined_pages(pages: Tensor, block_table_BT: Tensor) -> Tensor:
    """Pages [num_pages, G, page, E] as x_BGSE, S = T * page; unused entries give some page, of rows nobody sees."""
    (B, T), (G, page, E) = block_table_BT.shape, pages.shape[1:]
    table_X = block_table_BT.clamp(0, pages.shape[0] - 1).view(-1)
    x_BTGUE = pages.index_select(0, table_X).view(B, T, G, page, E)
    return x_BTGUE.transpose(1, 2).reshape(B, G, T * page, E)


def _visible(prefix_B: Tensor, words_BN: Tensor, S: int, window: int) -> Tensor:
    """seen_BNS: the rows node n attends to: the prefix, scratch row prefix + i for bit i."""
    scratch_BS = arange(S, prefix_B.device) - prefix_B[:, None]  # negative: inside the prefix
    is_scratch_B1S = ((scratch_BS >= 0) & (scratch_BS < 64))[:, None]
    bit_BNS = (words_BN[:, :, None] >> scratch_BS.clamp(0, 63)[:, None]) & 1
    ancestor_BNS = is_scratch_B1S & (bit_BNS == 1)
    alive_BN1 = (words_BN != 0)[:, :, None]  # a padding node sees nothing
    seen_BNS = alive_BN1 & ((scratch_BS < 0)[:, None] | ancestor_BNS)
    if window > 0:  # keep the last `window` visible rows: t - window < logical index, t the node's own
        rows_after_BNS = seen_BNS.flip(2).cumsum(2).flip(2)  # counts the row itself
        seen_BNS = seen_BNS & (rows_after_BNS <= window)
    return seen_BNS


def _weighted_sum(weights_BGXS: Tensor, seen_BGXS: Tensor, v_BGSE: Tensor) -> Tensor:
    """weights @ v where a NaN of v reaches only the rows that see it (0 * NaN would reach all)."""
    finite_BGSE = torch.isfinite(v_BGSE)
    out_BGXE = weights_BGXS @ torch.where(finite_BGSE, v_BGSE, 0.0)
    poisoned_BGXE = seen_BGXS.float() @ (~finite_BGSE).float() > 0
    return torch.where(poisoned_BGXE, float("nan"), out_BGXE)
