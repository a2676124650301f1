"""Small language models as drafters: PARD (all masks in one pass) and token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..kv_cache import KVCache
from ..models.config import ModelConfig
from ..models.target import Target, decoder_pieces
from ..models.workspace import Workspace
from ..quantize import first_rows
from ..state import DecodeState
from .base import Drafter, DraftRows
from .candidates import check_candidates, rank_candidates, shared_noise
from .checks import check_saveable, check_vocabulary
from .config import LM, MAX_K, PARD


@dataclass
class LMState:
    rows: DraftRows
    cache: KVCache
    work: Workspace
    ids_BN: Tensor  # int32, the tokens emitted last round, then the mask token
    predicting_RM: Tensor  # rows that predict


@dataclass
class SequentialLMState(LMState):
    prefix_B: Tensor  # int32, position and cache row of the newest drafted token
    best_B1: Tensor  # int32, that token
    word_B1: Tensor  # int64: its row sees the prefix and itself
    ids_BC: Tensor  # int32, candidates of the present depth
    scores_BC: Tensor
    temperature_B: Tensor
    noise_row_KB: Tensor


class LMDrafter(Drafter):
    """A causal LM over the target's vocabulary with its own cache; base of the two ways to draft with one.

    Args:
        model: the draft model.
        raw: its config.json, written back by `save_drafter`.
        target: only its vocabulary size is used. Table paddings may differ: ids the draft model lacks are never
            proposed and read as padding, ids the target lacks are never proposed.
        default_k: K used when the user names none.
    """

    max_k = MAX_K

    def __init__(self, model: Target, raw: dict[str, Any], target: ModelConfig, default_k: int) -> None:
        self.model, self.decoder, self.raw = model, model.decoder, raw
        self.check_fit(target)
        self.default_k = default_k
        self.nbytes = model.nbytes
        self.lacks_ids = model.config.vocab_size < target.vocab_size
        self.head_DM = first_rows(self.decoder.head_VM, target.vocab_size)

    def check_fit(self, target: ModelConfig) -> None:
        check_vocabulary(self.model.name, self.model.config.vocab_size, target)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_saveable(self.kind, self.decoder.embed_VM)
        return self.raw, decoder_pieces(self.decoder)

    def prefill(
        self,
        state: DecodeState,
        slot: int,
        start: int,
        ids_T: Tensor,
        next_ids_T: Tensor,
        features_TF: Tensor | None,
    ) -> None:
        own: LMState = state.drafter
        self.decoder.prefill_chunk(self._known(ids_T), start, own.cache.slot(slot), own.work)

    def _buffers(self, state: DecodeState, masks: int, predicting: int, prefill_rows: int) -> dict[str, Any]:
        """The fields of LMState for `masks` mask rows and `predicting` predicting rows per slot."""
        check_candidates(state, self.head_DM.shape[0], self.kind)
        shape, config = state.shape, self.model.config
        options: dict[str, Any] = {"dtype": self.model.dtype, "device": self.model.device}
        self.decoder.stack.rope.reserve(shape.S)
        rows = DraftRows(state, masks, shift=0)
        kv = (config.num_layers, shape.B, config.num_kv_heads, shape.S, config.head_dim)
        return {
            "rows": rows,
            "cache": KVCache.allocate(*kv, **options),
            "work": Workspace(config, max(shape.B * rows.N, prefill_rows), **options),
            "ids_BN": torch.full((shape.B, rows.N), -1, dtype=torch.int32, device=state.device),
            "predicting_RM": torch.zeros(shape.B * predicting, config.hidden_size, **options),
        }

    def _pass(self, state: DecodeState, own: LMState) -> None:
        """Run the rows of last round's tokens, and of the masks if there are any; write `predicting_RM`."""
        rows, P = own.rows, state.shape.P
        rows.fill(state)
        own.ids_BN[:, :P] = self._known(state.emitted_BP)
        hidden_RM = self.decoder.forward(
            own.ids_BN, rows.positions_BN, rows.prefix_B, rows.words_BN, own.cache, own.work
        )
        torch.index_select(hidden_RM, 0, rows.take_BK.view(-1), out=own.predicting_RM)

    def _known(self, ids: Tensor) -> Tensor:
        """The ids, -1 for those the draft model's table lacks."""
        known = self.model.config.vocab_size
        return torch.where(ids < known, ids, -1) if self.lacks_ids else ids


class ParallelLMDrafter(LMDrafter):
    """PARD (arXiv 2504.18583): the tokens of last round and K-1 times one shared mask token, in one causal pass.

    The row at position x predicts token x+1; masks follow the newest token.

    Args:
        mask_id: the shared mask token, an id the tokenizer never gives.
    """

    kind = PARD

    def __init__(self, model: Target, raw: dict[str, Any], target: ModelConfig, default_k: int, mask_id: int) -> None:
        super().__init__(model, raw, target, default_k)
        self.mask_id = mask_id

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        K = state.shape.K
        own = LMState(**self._buffers(state, masks=K - 1, predicting=K, prefill_rows=prefill_rows))
        own.ids_BN[:, state.shape.P :] = self.mask_id
        state.drafter = own

    def draft(self, state: DecodeState) -> None:
        own: LMState = state.drafter
        self._pass(state, own)
        rank_candidates(state, own.predicting_RM, self.head_DM)


class SequentialLMDrafter(LMDrafter):
    """Token by token: one pass over last round's tokens, then K-1 passes, each fed the best candidate of the last."""

    kind = LM

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        B, C, device = state.shape.B, state.shape.C, state.device

        def int32(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        state.drafter = SequentialLMState(
            **self._buffers(state, masks=0, predicting=1, prefill_rows=prefill_rows),
            prefix_B=int32(B),
            best_B1=int32(B, 1),
            word_B1=torch.ones(B, 1, dtype=torch.int64, device=device),
            ids_BC=int32(B, C),
            scores_BC=torch.zeros(B, C, dtype=torch.float32, device=device),
            temperature_B=torch.zeros(B, dtype=torch.float32, device=device),
            noise_row_KB=state.noise_row_BK.T.contiguous(),
        )

    def draft(self, state: DecodeState) -> None:
        own: SequentialLMState = state.drafter
        own.temperature_B.copy_(state.temperature_BK[:, 0])
        self._pass(state, own)
        self._rank(state, own, own.predicting_RM, depth=0)
        torch.sub(state.length_B, 1, out=own.prefix_B)
        for depth in range(1, state.shape.K):
            own.prefix_B.add_(1)
            own.best_B1.copy_(own.ids_BC[:, :1])
            hidden_BM = self.decoder.forward(
                own.best_B1, own.prefix_B[:, None], own.prefix_B, own.word_B1, own.cache, own.work
            )
            self._rank(state, own, hidden_BM, depth)

    def _rank(self, state: DecodeState, own: SequentialLMState, hidden_BM: Tensor, depth: int) -> None:
        """Candidates of one depth."""
        noise = shared_noise(state, own.temperature_B, own.noise_row_KB[depth])
        ops.head_top_k(hidden_BM, self.head_DM, own.ids_BC, own.scores_BC, **noise)
        state.candidate_ids_BKC[:, depth].copy_(own.ids_BC)
        state.candidate_scores_BKC[:, depth].copy_(own.scores_BC)
