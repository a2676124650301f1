"""Lookup beside a drafter: what n-gram lookup finds stands among a trained drafter's candidates, in one tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..models.config import ModelConfig
from ..state import DecodeState
from ..tree import TreeSpec
from .base import Drafter
from .ngram import NgramDrafter

LOOKUP = "+ngram"  # what a drafter's name and kind end in


@dataclass
class Lookup:
    """What a round's lookup found."""

    ids_BK: Tensor
    scores_BK: Tensor


class LookupDrafter(Drafter):
    """A parallel drafter with n-gram lookup beside it; all else is the drafter's own.

    Each token that followed the newest ones when they last occurred competes with the drafter's candidates of its
    depth, scored by how often such a token is right (see `ops.ngram_draft`). So a tree takes both where they differ, a
    chain the likelier one.

    Args:
        inner: a drafter that writes candidates.
        max_ngram, min_ngram: longest and shortest suffix that is looked up. Longer ones than where lookup drafts alone
            make it surer, shorter ones find something more often: an unlikely token loses to the drafter's own.

    Raises:
        ConfigError: the drafter grows its own tree, or looks up already.
    """

    def __init__(self, inner: Drafter, max_ngram: int = 12, min_ngram: int = 1) -> None:
        assert 1 <= min_ngram <= max_ngram
        self.inner, self.kind = inner, inner.kind + LOOKUP
        if isinstance(inner, (NgramDrafter, LookupDrafter)):
            raise ConfigError(f'drafter "{self.kind}": the {inner.kind} drafter looks up already; name it alone')
        if inner.grows_tree:
            raise ConfigError(
                f'drafter "{self.kind}": a {inner.kind} drafter drafts level by level and takes no tokens from '
                f'elsewhere; use it alone, "ngram" alone, or a parallel drafter with "{LOOKUP}"'
            )
        self.max_k, self.default_k = inner.max_k, inner.default_k
        self.taps, self.nbytes = inner.taps, inner.nbytes
        self.max_ngram, self.min_ngram = max_ngram, min_ngram

    def default_tree(self, k: int) -> TreeSpec:
        return self.inner.default_tree(k)

    def scratch_rows(self, k: int) -> int:
        return self.inner.scratch_rows(k)

    def check_fit(self, target: ModelConfig) -> None:
        self.inner.check_fit(target)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The inner drafter's: lookup has no weights."""
        return self.inner.checkpoint()

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        self.inner.allocate(state, prefill_rows)
        B, K, device = state.shape.B, state.shape.K, state.device
        ids_BK = torch.full((B, K), -1, dtype=torch.int32, device=device)
        state.lookup = Lookup(ids_BK, torch.full((B, K), -torch.inf, dtype=torch.float32, device=device))

    def prefill(
        self, state: DecodeState, slot: int, start: int, ids_T: Tensor, next_ids_T: Tensor, features_TF: Tensor | None
    ) -> None:
        self.inner.prefill(state, slot, start, ids_T, next_ids_T, features_TF)

    def offers(self, state: DecodeState) -> bool:
        return self.inner.offers(state)

    def draft(self, state: DecodeState) -> None:
        self.inner.draft(state)
        found: Lookup = state.lookup
        ops.ngram_draft(
            state.tokens_BS, state.length_B, found.ids_BK, found.scores_BK,
            max_ngram=self.max_ngram, min_ngram=self.min_ngram,
        )  # fmt: skip
        ops.blend_candidates(found.ids_BK, found.scores_BK, state.candidate_ids_BKC, state.candidate_scores_BKC)
