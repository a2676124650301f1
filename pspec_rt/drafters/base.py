"""What a drafter is to the round, and the row layout that parallel drafters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..models.config import ModelConfig
from ..state import DecodeState
from ..tree import TreeSpec


class Drafter(ABC):
    """Proposes C candidates for each of K future positions of every slot.

    Attributes:
        kind: name of the format, e.g. "parallelspec-eagle".
        max_k: largest K it can draft.
        default_k: the K used when the user names none.
        taps: hidden states of the target it reads (HF `hidden_states` indices; -1 = after the final norm); () if none.
        nbytes: bytes of its weights.
    """

    kind: str
    max_k: int
    default_k: int
    taps: tuple[int, ...] = ()
    nbytes: int = 0

    def default_tree(self, k: int) -> TreeSpec:
        """The tree used when the user names none."""
        return TreeSpec.chain(k)

    def scratch_rows(self, k: int) -> int:
        """Cache rows past the committed length that one draft may write in the drafter's own cache."""
        return 2 * k

    def check_fit(self, target: ModelConfig) -> None:
        """Raise DrafterMismatchError, naming both sides, unless it can draft for this target."""
        return None  # a family without weights fits any

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """config.json and the tensors by name, views of the weights; None for a family without weights."""
        return None

    @abstractmethod
    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        """Put this family's buffers (own KV cache included) into `state.drafter`."""

    @abstractmethod
    def prefill(
        self, state: DecodeState, slot: int, start: int, ids_T: Tensor, next_ids_T: Tensor, features_TF: Tensor | None
    ) -> None:
        """Take in prompt positions start .. start+T-1 of a slot.

        Args:
            ids_T, next_ids_T: tokens at these positions and at the following ones, -1 past the prompt.
            features_TF: the target's tapped features of these positions, or None if `taps` is empty.
        """

    def offers(self, state: DecodeState) -> bool:
        """Whether the next draft will hold anything; if not, a plain round costs less. Outside the round: may sync."""
        return True

    @abstractmethod
    def draft(self, state: DecodeState) -> None:
        """Write candidate_ids_BKC and candidate_scores_BKC (log-probabilities, descending along C). Capture-safe.

        Candidate k stands for absolute position length_B + k. An id of -1 means "none" and is never accepted.
        """


class DraftRows:
    """The rows of one parallel draft: P slots for the tokens committed last round, then J mask rows.

    Row i < P stands for the i-th token emitted last round (rows from `count_B` on are padding); the last real one is
    the anchor, which predicts the first draft. `shift` is the RoPE position and cache row of a committed token's row
    relative to the token's own position: 0 for language models, -1 for EAGLE-style rows, which pair a token with the
    feature before it. Cache row of row n = prefix_B + n; mask rows are scratch and overwritten next round.
    """

    def __init__(self, state: DecodeState, masks: int, shift: int) -> None:
        B, P, device = state.shape.B, state.shape.P, state.device
        N = P + masks
        assert N <= 64, "draft rows must fit one 64-bit word"
        self.shift, self.P, self.N = shift, P, N
        self.prefix_B = torch.zeros(B, dtype=torch.int32, device=device)
        self.positions_BN = torch.zeros(B, N, dtype=torch.int32, device=device)
        self.words_BN = torch.zeros(B, N, dtype=torch.int64, device=device)
        self.take_BK = torch.zeros(B, 1 + masks, dtype=torch.int64, device=device)  # flattened rows that predict
        causal = [(1 << min(n + 1, P)) - 1 for n in range(N)]  # real rows a row may see: up to itself; masks see all
        own = [1 << n if n < P else (1 << (n + 1)) - (1 << P) for n in range(N)]  # itself and earlier masks
        self._causal_N, self._own_N = (
            torch.tensor([w - (1 << 64) if w >> 63 else w for w in words], dtype=torch.int64, device=device)
            for words in (causal, own)
        )
        self._real_offset_P = torch.arange(P, dtype=torch.int32, device=device)
        self._mask_offset_J = torch.arange(1, masks + 1, dtype=torch.int32, device=device)
        self._first_row_B1 = torch.arange(B, device=device)[:, None] * N
        self._mask_row_J = torch.arange(P, N, device=device)

    def fill(self, state: DecodeState) -> None:
        """Write prefix, positions, ancestor words and prediction rows for the slots' present lengths."""
        count_B, anchor_B = state.count_B, state.length_B - 1 + self.shift
        first_B = anchor_B - count_B + 1  # position of row 0; negative only for a one-token prompt of a shifted drafter
        torch.clamp(first_B, min=0, out=self.prefix_B)
        torch.add(first_B[:, None], self._real_offset_P, out=self.positions_BN[:, : self.P])
        torch.add(anchor_B[:, None], self._mask_offset_J, out=self.positions_BN[:, self.P :])
        self.positions_BN.clamp_(min=0)
        real_B = torch.bitwise_left_shift(torch.ones_like(count_B, dtype=torch.int64), count_B.long()) - 1
        real_B = real_B * (first_B >= 0)
        torch.bitwise_and(self._causal_N, real_B[:, None], out=self.words_BN)
        self.words_BN.bitwise_or_(self._own_N)
        self.take_BK[:, :1] = self._first_row_B1 + (count_B[:, None] - 1).clamp(min=0)
        self.take_BK[:, 1:] = self._first_row_B1 + self._mask_row_J
