"""Drafters made for tests: they know (or pretend to know) the continuation, and are good, useless or adversarial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pspec_rt.drafters.base import Drafter
from pspec_rt.state import DecodeState

KINDS = ("good", "late", "flaky", "useless", "adversarial")


@dataclass
class OracleState:
    known_BS: Tensor  # the tokens of the plain run, -1 where unknown


class OracleDrafter(Drafter):
    """Drafts from known sequences, slot by slot.

    good: rank 0 is right. late: the right token has the last rank. flaky: right but for every third position.
    useless: always wrong. adversarial: right tokens duplicated over all ranks, ids of -1 among them, and NaN, infinite
    and unsorted scores.
    """

    max_k = 32
    default_k = 7

    def __init__(self, kind: str, sequences: Sequence[Sequence[int]], vocab: int) -> None:
        assert kind in KINDS
        self.kind, self.sequences, self.vocab = kind, [list(s) for s in sequences], vocab

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        B, S = state.shape.B, state.shape.S
        known_BS = torch.full((B, S), -1, dtype=torch.int32, device=state.device)
        for slot, tokens in enumerate(self.sequences[:B]):
            known_BS[slot, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        state.drafter = OracleState(known_BS)

    def prefill(
        self, state: DecodeState, slot: int, start: int, ids_T: Tensor, next_ids_T: Tensor, features_TF: Tensor | None
    ) -> None:
        pass

    def draft(self, state: DecodeState) -> None:
        K, C, device = state.shape.K, state.shape.C, state.device
        at_BK = (state.length_B[:, None] + torch.arange(K, device=device)).clamp(max=state.shape.S - 1)
        right_BK = state.drafter.known_BS.gather(1, at_BK.long())
        wrong_BK = torch.where(right_BK >= 0, (right_BK + 1) % self.vocab, right_BK)
        rank_C = torch.arange(C, device=device)
        ids_BKC = ((wrong_BK[..., None] + rank_C) % self.vocab).to(torch.int32)
        scores_BKC = (-0.5 - rank_C.float()).expand(ids_BKC.shape).clone()
        if self.kind == "good":
            ids_BKC[..., 0] = right_BK
        elif self.kind == "late":
            ids_BKC[..., C - 1] = right_BK
        elif self.kind == "flaky":
            ids_BKC[..., 0] = torch.where(at_BK % 3 == 0, ids_BKC[..., 0], right_BK)
        elif self.kind == "adversarial":
            ids_BKC = torch.where(at_BK[..., None] % 4 == 3, -1, right_BK[..., None].expand(ids_BKC.shape))
            odd = torch.tensor([torch.nan, torch.inf, 0.0, -torch.inf], device=device)
            scores_BKC = odd[(at_BK[..., None] + rank_C) % 4]
        state.candidate_ids_BKC.copy_(ids_BKC)
        state.candidate_scores_BKC.copy_(scores_BKC)
