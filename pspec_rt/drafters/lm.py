"""Small language models as drafters: PARD (all masks in one pass) and level by level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..kv_cache import KVCache
from ..models.config import ModelConfig
from ..models.target import Target, decoder_pieces
from ..models.workspace import Rows, Workspace
from ..quantize import first_rows
from ..state import DecodeState
from .base import Drafter, DraftRows, cast_features
from .candidates import check_candidates, rank_candidates
from .checks import check_saveable, check_vocabulary
from .config import LM, MAX_K, PARD, PARD2
from .growth import Growth


@dataclass
class LMState:
    rows: DraftRows
    cache: KVCache
    work: Workspace
    predicting_BKM: Tensor  # rows that predict


@dataclass
class SequentialLMState(LMState):
    growth: Growth


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
        self.mask_id = 0
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
        rows = own.work.rows(len(ids_T))
        ops.embed(self._known(ids_T), self.decoder.embed_VM, rows.residual_RM)
        self._take_features(own, rows, slot, start, features_TF)
        self.decoder.stack.prefill(rows, start, own.cache.slot(slot))

    def _take_features(self, own: LMState, rows: Rows, slot: int, start: int, features_TF: Tensor | None) -> None:
        """Add what the embedded rows of a prompt's chunk need of the target's features: nothing."""

    def _buffers(self, state: DecodeState, masks: int, prefill_rows: int) -> dict[str, Any]:
        """The fields of LMState for `masks` mask rows per slot."""
        check_candidates(state, self.head_DM.shape[0], self.kind)
        shape, config = state.shape, self.model.config
        options: dict[str, Any] = {"dtype": self.model.dtype, "device": self.model.device}
        self.decoder.stack.rope.reserve(shape.S)
        vocab = config.vocab_size if self.lacks_ids else 0
        rows = DraftRows(state, masks, shift=0, mask_id=self.mask_id, vocab=vocab)
        kv = (config.num_layers, shape.B, config.num_kv_heads, shape.S, config.head_dim)
        return {
            "rows": rows,
            "cache": KVCache.allocate(*kv, **options),
            "work": Workspace(config, max(shape.B * rows.N, prefill_rows), **options),
            "predicting_BKM": torch.zeros(shape.B, 1 + masks, config.hidden_size, **options),
        }

    def _pass(self, state: DecodeState, own: LMState) -> None:
        """Run the rows of last round's tokens, and of the masks if there are any; write `predicting_BKM`."""
        draft, decoder = own.rows, self.decoder
        draft.fill(state)
        rows = own.work.rows(draft.ids_BN.numel())
        ops.embed(draft.ids_BN.view(-1), decoder.embed_VM, rows.residual_RM)
        self._add_features(state, own, rows)
        hidden_RM = decoder.stack.forward(
            rows, draft.positions_BN, draft.prefix_B, draft.words_BN, own.cache, norm_M=decoder.norm_M
        )
        ops.gather_features(hidden_RM, draft.take_BK, own.predicting_BKM)

    def _add_features(self, state: DecodeState, own: LMState, rows: Rows) -> None:
        """Add what the embedded rows of a draft need of the target's features: nothing."""

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
        state.drafter = LMState(**self._buffers(state, masks=state.shape.K - 1, prefill_rows=prefill_rows))

    def draft(self, state: DecodeState) -> None:
        own: LMState = state.drafter
        self._pass(state, own)
        rank_candidates(state, own.predicting_BKM.flatten(0, 1), self.head_DM)


@dataclass
class FeatureLMState(LMState):
    features_BNF: Tensor  # of every row
    taken_BPF: Tensor | None  # last round's, where the draft model's dtype is not the target's
    last_BF: Tensor  # of the newest position that a prompt's chunks brought


class FeatureLMDrafter(ParallelLMDrafter):
    """PARD-2 (arXiv 2605.08632), fed by its target: the row of position t adds a projection of the features of t-1.

    Rows stay where PARD has them, so nothing is shifted; masks use the features of the newest row. Position 0 uses
    zeros.

    Args:
        projection_MF, bias_M: the checkpoint's, times its scale.
        taps: hidden states of the target, side by side.
    """

    kind = PARD2

    def __init__(
        self,
        model: Target,
        raw: dict[str, Any],
        target: ModelConfig,
        default_k: int,
        mask_id: int,
        projection_MF: Tensor,
        bias_M: Tensor | None,
        taps: tuple[int, ...],
    ) -> None:
        super().__init__(model, raw, target, default_k, mask_id)
        self.projection_MF, self.bias_M, self.taps = projection_MF, bias_M, taps
        self.nbytes += projection_MF.nbytes + (0 if bias_M is None else bias_M.nbytes)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        raise ConfigError("a pard2 drafter cannot be saved: its projection lies in a file of its own")

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        buffers = self._buffers(state, masks=state.shape.K - 1, prefill_rows=prefill_rows)
        B, N, F = state.shape.B, buffers["rows"].N, state.shape.F

        def new(*size: int) -> Tensor:
            return torch.zeros(size, dtype=self.model.dtype, device=self.model.device)

        cast = self.model.dtype != state.dtype
        taken = new(*state.features_BPF.shape) if cast else None
        state.drafter = FeatureLMState(**buffers, features_BNF=new(B, N, F), taken_BPF=taken, last_BF=new(B, F))

    def _take_features(self, own: LMState, rows: Rows, slot: int, start: int, features_TF: Tensor | None) -> None:
        assert isinstance(own, FeatureLMState)
        assert features_TF is not None, "the target taps what the drafter reads"
        if start == 0:
            own.last_BF[slot].zero_()
        features_TF = features_TF.to(self.model.dtype)
        before_TF = torch.cat([own.last_BF[slot][None], features_TF[:-1]])
        own.last_BF[slot] = features_TF[-1]
        self._project(before_TF, rows)

    def _add_features(self, state: DecodeState, own: LMState, rows: Rows) -> None:
        assert isinstance(own, FeatureLMState)
        features_BPF = cast_features(state, own.taken_BPF)
        ops.gather_features(features_BPF.flatten(0, 1), own.rows.source_BN, own.features_BNF)
        self._project(own.features_BNF.flatten(0, 1), rows)

    def _project(self, features_RF: Tensor, rows: Rows) -> None:
        ops.linear(features_RF, self.projection_MF, rows.residual_RM, bias_O=self.bias_M, add=True)


class SequentialLMDrafter(LMDrafter):
    """Level by level: a pass over last round's tokens, then one over the drafted tokens of each depth but the last."""

    kind = LM
    grows_tree = True

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        growth = Growth(state, shift=0)
        rows = max(prefill_rows, state.shape.B * growth.most_rows)
        state.drafter = SequentialLMState(**self._buffers(state, masks=0, prefill_rows=rows), growth=growth)

    def draft(self, state: DecodeState) -> None:
        own: SequentialLMState = state.drafter
        growth = own.growth
        self._pass(state, own)
        growth.rank(state, 0, own.predicting_BKM.flatten(0, 1), self.head_DM)
        for depth, level in enumerate(growth.levels[1:], start=1):
            rows = level.rows
            hidden_RM = self.decoder.forward(
                rows.ids_BW, rows.positions_BW, growth.prefix_B, rows.words_BW, own.cache, own.work,
                append_B=growth.append_B,
            )  # fmt: skip
            growth.rank(state, depth, hidden_RM, self.head_DM)
        growth.finish(state)
