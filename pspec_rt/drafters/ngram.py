"""Prompt-lookup drafting: proposes what followed the last occurrence of the newest tokens; no weights."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..state import RUNNING, DecodeState
from .base import Drafter


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
        state.candidate_ids_BKC.fill_(-1)  # one candidate per depth; the other ranks stay empty
        state.candidate_scores_BKC.fill_(-torch.inf)

    def prefill(
        self, state: DecodeState, slot: int, start: int, ids_T: Tensor, next_ids_T: Tensor, features_TF: Tensor | None
    ) -> None:
        """Nothing to take in: the history is `state.tokens_BS`."""

    def offers(self, state: DecodeState) -> bool:
        self.draft(state)
        found_B = (state.candidate_ids_BKC[:, 0, 0] >= 0) & (state.finished_B == RUNNING)
        return bool(found_B.any())

    def draft(self, state: DecodeState) -> None:
        ops.ngram_draft(
            state.tokens_BS, state.length_B, state.candidate_ids_BKC[:, :, 0], state.candidate_scores_BKC[:, :, 0],
            max_ngram=self.max_ngram, min_ngram=self.min_ngram,
        )  # fmt: skip
