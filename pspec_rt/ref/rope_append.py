"""rope_append in plain PyTorch: rotate q and k, put k and v into the cache."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ._index import arange, page_and_offset


def rope_append(
    qkv_RX: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    cos_SE: Tensor,
    sin_SE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    q_BNHE: Tensor,
    *,
    q_norm_E: Tensor | None = None,
    k_norm_E: Tensor | None = None,
    eps: float = 1e-6,
    block_table_BT: Tensor | None = None,
) -> None:
    """q = rope(q), cache row prefix + n = rope(k), v; see `pspec_rt.ops.rope_append`."""
    (B, N, H, E), G = q_BNHE.shape, k_BGSE.shape[1]
    heads_BNXE = qkv_RX.view(B, N, H + 2 * G, E)
    x_BNXE = heads_BNXE[:, :, : H + G].float()
    if q_norm_E is not None and k_norm_E is not None:
        x_BNXE = torch.cat(
            [
                F.rms_norm(x_BNXE[:, :, :H], (E,), q_norm_E.float(), eps),
                F.rms_norm(x_BNXE[:, :, H:], (E,), k_norm_E.float(), eps),
            ],
            dim=2,
        )
    y_BNXE = _rotate(x_BNXE, positions_BN, cos_SE, sin_SE)
    q_BNHE.copy_(y_BNXE[:, :, :H])
    if block_table_BT is None:
        row_BNG = _cache_rows(prefix_B, N, G, k_BGSE.shape[2])
    else:
        row_BNG = _page_rows(prefix_B, N, G, k_BGSE.shape[2], block_table_BT)
    _append(k_BGSE, row_BNG, y_BNXE[:, :, H:])
    _append(v_BGSE, row_BNG, heads_BNXE[:, :, H + G :])


def _cache_rows(prefix_B: Tensor, N: int, G: int, S: int) -> Tensor:
    """row_BNG: where scratch row n of head g lies in a layer's cache seen as [B*G*S, E]."""
    B = prefix_B.shape[0]
    return prefix_B.view(B, 1, 1) + _first_rows(B, N, G, S, prefix_B.device)


@lru_cache(maxsize=64)
def _first_rows(B: int, N: int, G: int, S: int, device: torch.device) -> Tensor:
    """row_BNG for prefixes of 0. Cached: the same for every layer and round."""
    head_B1G = (torch.arange(B * G, device=device) * S).view(B, 1, G)
    return head_B1G + torch.arange(N, device=device).view(N, 1)


def _page_rows(prefix_B: Tensor, N: int, G: int, page: int, block_table_BT: Tensor) -> Tensor:
    """row_BNG: the same in a layer's pages seen as [num_pages*G*page, E]."""
    row_BN = prefix_B[:, None] + arange(N, prefix_B.device)
    page_BN, offset_BN = page_and_offset(block_table_BT, row_BN, page)
    return (page_BN[:, :, None] * G + arange(G, prefix_B.device)) * page + offset_BN[:, :, None]


def _append(cache_BGSE: Tensor, row_BNG: Tensor, new_BNGE: Tensor) -> None:
    E = new_BNGE.shape[3]
    new_XE = new_BNGE.to(cache_BGSE.dtype).reshape(-1, E)
    cache_BGSE.view(-1, E).index_copy_(0, row_BNG.view(-1), new_XE)


def _rotate(x_BNXE: Tensor, positions_BN: Tensor, cos_SE: Tensor, sin_SE: Tensor) -> Tensor:
    """Rotary embedding, rotate_half layout: element e turns with element e + E/2."""
    (B, N, X, E), half = x_BNXE.shape, x_BNXE.shape[-1] // 2
    position_R = positions_BN.clamp(0, cos_SE.shape[0] - 1).view(-1)
    cos_BN11h = cos_SE.index_select(0, position_R).view(B, N, 1, 1, half)
    sin_BN1h = sin_SE.index_select(0, position_R).view(B, N, 1, half)
    x_BNX2h = x_BNXE.view(B, N, X, 2, half)
    first_BNXh, second_BNXh = x_BNX2h.unbind(dim=3)
    y_BNX2h = x_BNX2h * cos_BN11h
    y_first_BNXh, y_second_BNXh = y_BNX2h.unbind(dim=3)
    y_first_BNXh -= second_BNXh * sin_BN1h
    y_second_BNXh += first_BNXh * sin_BN1h
    return y_BNX2h.view(B, N, X, E)
