"""Prompt-lookup drafting: proposes what followed the last occurrence of the newest tokens; no weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..state import RUNNING, DecodeState
from .base import Drafter


@dataclass
class NgramState:
    ids_BK: Tensor  # int32, -1 where nothing was found


class NgramDrafter(Drafter):
    """Looks the newest n tokens up in the slot's own history, on the device (prompt lookup, Saxena 2023).

    Args:
        max_ngram, min_ngram: longest and shortest suffix that is looked up.
    """

    kind = "ngram"
    max_k = 32
    default_k = 7

    def __init__(self, max_ngram: int = 4, min_ngram: int = 2) -> None:
        assert 1 <= min_ngram <= max_ngram
        self.max_ngram, self.min_ngram = max_ngram, min_ngram

    def scratch_rows(self, k: int) -> int:
        return 0

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        B, K, device = state.shape.B, state.shape.K, state.device
        state.candidate_ids_BKC.fill_(-1)  # one candidate per depth; the other ranks stay empty
        state.candidate_scores_BKC.fill_(-torch.inf)
        state.drafter = NgramState(torch.full((B, K), -1, dtype=torch.int32, device=device))

    def prefill(
        self, state: DecodeState, slot: int, start: int, ids_T: Tensor, next_ids_T: Tensor, features_TF: Tensor | None
    ) -> None:
        """Nothing to take in: the history is `state.tokens_BS`."""

    def offers(self, state: DecodeState) -> bool:
        found_B = (self._look_up(state)[:, 0] >= 0) & (state.finished_B == RUNNING)
        return bool(found_B.any())

    def _look_up(self, state: DecodeState) -> Tensor:
        own: NgramState = state.drafter
        ops.ngram_draft(state.tokens_BS, state.length_B, own.ids_BK, max_ngram=self.max_ngram, min_ngram=self.min_ngram)
        return own.ids_BK

    def draft(self, state: DecodeState) -> None:
        ids_BK = self._look_up(state)
        state.candidate_ids_BKC[:, :, 0].copy_(ids_BK)
        state.candidate_scores_BKC[:, :, 0].zero_().masked_fill_(ids_BK < 0, -torch.inf)
