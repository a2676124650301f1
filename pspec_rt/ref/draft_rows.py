"""draft_rows in plain PyTorch: the rows of one draft, from the tokens of last round."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ._index import arange


def draft_rows(
    emitted_BP: Tensor,
    count_B: Tensor,
    length_B: Tensor,
    ids_BN: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    take_BT: Tensor,
    source_BN: Tensor,
    *,
    shift: int,
    mask_id: int = 0,
    vocab: int = 0,
) -> None:
    """ids, positions, prefix, words and predicting rows; see `pspec_rt.ops.draft_rows`."""
    P, N, device = emitted_BP.shape[1], ids_BN.shape[1], ids_BN.device
    row_N = arange(N, device)
    ids_BN[:, :P] = torch.where(emitted_BP < vocab, emitted_BP, -1) if vocab else emitted_BP
    ids_BN[:, P:] = mask_id
    anchor_B = length_B - 1 + shift
    first_B = anchor_B - count_B + 1
    prefix_B.copy_(first_B.clamp(min=0))
    positions_BN[:, :P] = first_B[:, None] + row_N[:P]
    positions_BN[:, P:] = anchor_B[:, None] + row_N[1 : N - P + 1]
    positions_BN.clamp_(min=0)
    causal_N, own_N = _words(P, N, device)
    real_B = (torch.ones_like(count_B, dtype=torch.int64) << count_B) - 1
    real_B *= first_B >= 0
    torch.bitwise_and(causal_N, real_B[:, None], out=words_BN)
    words_BN |= own_N
    take_BT[:, 0] = (count_B - 1).clamp(min=0)
    take_BT[:, 1:] = row_N[P:]
    source_BN[:, :P] = row_N[:P]
    source_BN[:, P:] = take_BT[:, :1]


@lru_cache(maxsize=64)
def _words(P: int, N: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(causal_N, own_N) int64: the real rows a row may see, up to itself or, a mask, all; itself and earlier masks."""
    causal = [(1 << min(n + 1, P)) - 1 for n in range(N)]
    own = [1 << n if n < P else (1 << (n + 1)) - (1 << P) for n in range(N)]
    signed = [[word - (1 << 64) if word >> 63 else word for word in words] for words in (causal, own)]
    words_2N = torch.tensor(signed, dtype=torch.int64, device=device)
    return words_2N[0], words_2N[1]
