"""What a drafter is to the round, and the row layout that parallel drafters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..models.config import ModelConfig
from ..state import DecodeState
from ..tree import MAX_NODES, TreeSpec


class Drafter(ABC):
    """Proposes C candidates for each of K future positions of every slot.

    Attributes:
        kind: name of the format, e.g. "parallelspec-eagle".
        max_k: largest K it can draft.
        default_k: the K used when the user names none.
        taps: hidden states of the target it reads (HF `hidden_states` indices; -1 = after the final norm); () if none.
        nbytes: bytes of its weights.
        grows_tree: whether `draft` writes the tree itself, as a drafter does whose candidates depend on the path.
    """

    kind: str
    max_k: int
    default_k: int
    taps: tuple[int, ...] = ()
    nbytes: int = 0
    grows_tree: bool = False

    def default_tree(self, k: int) -> TreeSpec:
        """The tree used when the user names none."""
        return TreeSpec.chain(k)

    def scratch_rows(self, k: int) -> int:
        """Cache rows past the committed length that one draft may write in the drafter's own cache."""
        return MAX_NODES if self.grows_tree else 2 * k

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

        Candidate k stands for absolute position length_B + k. An id of -1 means "none" and is never accepted. With
        `grows_tree`, write what `ops.build_tree` would instead.
        """


def cast_features(state: DecodeState, own_BPF: Tensor | None) -> Tensor:
    """The features of last round, in a drafter's own dtype if it has a buffer for that."""
    if own_BPF is None:
        return state.features_BPF
    ops.cast(state.features_BPF, own_BPF)
    return own_BPF


class DraftRows:
    """The rows of one parallel draft, as `ops.draft_rows` lays them out: P for last round's tokens, then J masks.

    Mask rows are scratch in the drafter's cache and overwritten next round.

    Args:
        masks: J.
        shift: 0 for language models, -1 for EAGLE-style rows, which pair a token with the feature before it.
        mask_id, vocab: id of the masks, and how many ids the drafter knows (0: all).
        tokens: P, if not that of the state.
    """

    def __init__(
        self, state: DecodeState, masks: int, shift: int, mask_id: int = 0, vocab: int = 0, tokens: int | None = None
    ) -> None:
        B, device = state.shape.B, state.device
        P = state.shape.P if tokens is None else tokens
        N = P + masks
        self.shift, self.mask_id, self.vocab, self.P, self.N = shift, mask_id, vocab, P, N

        def int32(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        self.ids_BN, self.positions_BN, self.prefix_B = int32(B, N), int32(B, N), int32(B)
        self.words_BN = torch.zeros(B, N, dtype=torch.int64, device=device)
        self.take_BK = int32(B, 1 + masks)  # the rows that predict: the anchor and the masks
        self.source_BN = int32(B, N)  # the real row whose feature a row goes with: its own, or the anchor's

    def fill(self, state: DecodeState) -> None:
        """Write all of them for the slots' present lengths."""
        self.place(state.emitted_BP, state.count_B, state.length_B)

    def place(self, emitted_BP: Tensor, count_B: Tensor, length_B: Tensor) -> None:
        """Write all of them for these tokens, the newest of `length_B`."""
        ops.draft_rows(
            emitted_BP, count_B, length_B,
            self.ids_BN, self.positions_BN, self.prefix_B, self.words_BN, self.take_BK, self.source_BN,
            shift=self.shift, mask_id=self.mask_id, vocab=self.vocab,
        )  # fmt: skip
