"""FeatureDrafter: one pass over the rows accepted last round and K-1 mask rows, fed by the target's features."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..kv_cache import KVCache
from ..models.config import ModelConfig
from ..models.decoder import Stack
from ..models.rope import Rope
from ..models.target import Target
from ..models.workspace import Rows, Workspace
from ..ops.draft_forward import DraftHead
from ..quantize import Int8Weight, Weight, select_rows
from ..state import DecodeState
from ..tree import TreeSpec, own_tree
from .base import Drafter, DraftRows, cast_features
from .candidates import as_id_map, check_candidates, rank_candidates, shared_noise
from .checks import check_saveable
from .config import FeatureConfig
from .fused import head_for_one_launch
from .weights import D2T, FeatureWeights


class Join:
    """Buffers of EAGLE-3's first layer for up to R rows: attention reads [normed embedding ; normed features]."""

    def __init__(self, R: int, M: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.embedded_RM, self.normed_RM = (torch.zeros(R, M, dtype=dtype, device=device) for _ in range(2))
        self.joined_RW = torch.zeros(R, 2 * M, dtype=dtype, device=device)


@dataclass
class FeatureState:
    """Buffers of a feature drafter, Md being its own width."""

    rows: DraftRows
    cache: KVCache
    work: Workspace
    features_BPF: Tensor | None  # only where the drafter's dtype is not the target's
    predicting_BKM: Tensor  # [B, K, Md] rows that predict
    block_in_BM: Tensor  # one depth of them, before and after its residual block's linear part
    block_out_BM: Tensor
    depth_KB1: Tensor  # int32: a depth as index among the rows that predict
    join: Join | None  # only with EAGLE-3's first layer
    head: DraftHead | None  # only where the pass is one launch


class FeatureDrafter(Drafter):
    """A drafter whose row of position t holds the target's features of position t; base of both ParallelSpec forms.

    Rows (see `DraftRows`) pass through the layers over the drafter's own cache, which covers the whole context; the
    anchor and the masks then go through the final norm, a residual block per depth if there is one, and the head.

    Args:
        config, weights: as parsed and loaded; kept, so that saving gives them back.
        target: whose embedding table and head serve where the drafter has none; must fit (`config.check_fit`).
    """

    def __init__(self, config: FeatureConfig, weights: FeatureWeights, target: Target) -> None:
        self.config, self.weights = config, weights
        self.kind, self.taps = config.kind, config.taps
        self.default_k, self.max_k = config.k, config.max_k or config.k
        self.dtype, self.device = weights.fc_MW.dtype, weights.fc_MW.device
        self.stack = Stack(
            config.layers,
            weights.layers,
            Rope(config.layers.rope, config.layers.head_dim, self.device),
        )
        self.id_map_D = None if weights.d2t_D is None else as_id_map(weights.d2t_D)
        self.head_DM = self._head(target)
        self.table_VE = self.token_table(target)
        self.mask_inputs_JM = self.mask_inputs()
        self.nbytes = weights.nbytes

    def _head(self, target: Target) -> Weight:
        """[D, Md] its own head, or the target's: all of it, or the rows of a reduced vocabulary."""
        if self.weights.head_DM is not None:
            return self.weights.head_DM
        head_VM = target.decoder.head_VM
        return head_VM if self.id_map_D is None else select_rows(head_VM, self.id_map_D)

    @abstractmethod
    def token_table(self, target: Target) -> Weight | None:
        """Embeddings joined to the features, in the drafter's dtype or int8; None if the drafter reads no tokens."""

    @abstractmethod
    def mask_inputs(self) -> Tensor:
        """[J, M] what enters the layers at the mask rows, the same every round."""

    def default_tree(self, k: int) -> TreeSpec:
        return own_tree(self.config.tree, k)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_saveable(self.kind, self.weights.layers[0].qkv_XM)
        tensors = self.weights.pieces(self.config)
        if self.weights.d2t_D is not None:
            tensors[D2T] = self.weights.d2t_D
        return self.config.raw, tensors

    def check_fit(self, target: ModelConfig) -> None:
        self.config.check_fit(target)

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        own = state.drafter = FeatureState(**self._buffers(state, state.shape.K - 1, prefill_rows))
        parts = (self.weights, self.stack, self.table_VE, self.head_DM)
        own.head = head_for_one_launch(*parts, own.rows, own.cache, state.shape.C)

    def _buffers(self, state: DecodeState, masks: int, other_rows: int) -> dict[str, Any]:
        """The fields of FeatureState for `masks` mask rows per slot; `other_rows`: most rows of another pass."""
        check_candidates(state, self.head_DM.shape[0], self.kind)
        shape, layers = state.shape, self.config.layers
        B, M = shape.B, layers.hidden_size
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        rows = DraftRows(state, masks, shift=-1, mask_id=self.config.mask_id)
        most = max(B * rows.N, other_rows)
        depth_K = torch.arange(1 + masks, dtype=torch.int32, device=self.device)
        self.stack.rope.reserve(shape.S)
        return {
            "rows": rows,
            "cache": KVCache.allocate(layers.num_layers, B, layers.num_kv_heads, shape.S, layers.head_dim, **options),
            "work": Workspace(layers, most, **options),
            "features_BPF": None if self.dtype == state.dtype else torch.zeros(state.features_BPF.shape, **options),
            "predicting_BKM": torch.zeros(B, 1 + masks, M, **options),
            "block_in_BM": torch.zeros(B, M, **options),
            "block_out_BM": torch.zeros(B, M, **options),
            "depth_KB1": depth_K[:, None, None].repeat(1, B, 1),
            "join": Join(most, M, **options) if self.config.joins_norms else None,
            "head": None,
        }

    def prefill(
        self,
        state: DecodeState,
        slot: int,
        start: int,
        ids_T: Tensor,
        next_ids_T: Tensor,
        features_TF: Tensor | None,
    ) -> None:
        """Rows of a chunk, exactly those that `draft` would write for these positions."""
        assert features_TF is not None, "the target taps what the drafter reads"
        own: FeatureState = state.drafter
        rows = own.work.rows(len(ids_T))
        count_B = state.count_B[slot : slot + 1]
        self._write_inputs(rows, next_ids_T[None], features_TF.to(self.dtype)[None], count_B, masks=0)
        first_RW = self._join(own, rows, next_ids_T)
        self.stack.prefill(rows, start, own.cache.slot(slot), first_RW=first_RW)

    def draft(self, state: DecodeState) -> None:
        own: FeatureState = state.drafter
        if own.head is not None:
            self._one_launch(state, own, own.head)
            return
        hidden_RM, _ = self._pass(state, own)
        ops.gather_features(hidden_RM, own.rows.take_BK, own.predicting_BKM)
        self._apply_blocks(own)
        rank_candidates(state, own.predicting_BKM.flatten(0, 1), self.head_DM, self.id_map_D)

    def _pass(self, state: DecodeState, own: FeatureState) -> tuple[Tensor, Tensor]:
        """Run the rows of last round's tokens and the masks; returns them normed and as the layers left them."""
        draft = own.rows
        draft.fill(state)
        rows = own.work.rows(draft.ids_BN.numel())
        self._write_inputs(
            rows, state.emitted_BP, cast_features(state, own.features_BPF), state.count_B, masks=draft.N - draft.P
        )
        hidden_RM = self.stack.forward(
            rows,
            draft.positions_BN,
            draft.prefix_B,
            draft.words_BN,
            own.cache,
            norm_M=self.weights.norm_M,
            first_RW=self._join(own, rows, draft.ids_BN.view(-1)),
        )
        return hidden_RM, rows.residual_RM

    def _one_launch(self, state: DecodeState, own: FeatureState, head: DraftHead) -> None:
        """All of `draft` by draft_forward."""
        rows, (k_BGSE, v_BGSE) = own.rows, own.cache.layer(0)
        ids_RC, scores_RC = state.candidate_ids_BKC.flatten(0, 1), state.candidate_scores_BKC.flatten(0, 1)
        rows.fill(state)
        ops.draft_forward(
            head, state.emitted_BP, cast_features(state, own.features_BPF), self.mask_inputs_JM[: rows.N - rows.P],
            rows.positions_BN, rows.prefix_B, rows.words_BN, rows.take_BK, k_BGSE, v_BGSE, ids_RC, scores_RC,
            id_map_D=self.id_map_D,
            **shared_noise(state, state.temperature_BK.view(-1), state.noise_row_BK.view(-1)),
        )  # fmt: skip

    def _join(self, own: FeatureState, rows: Rows, ids_R: Tensor) -> Tensor | None:
        """What the first layer's attention reads if that is not the residual stream, for rows of these tokens."""
        return None

    def _write_inputs(self, rows: Rows, ids_BP: Tensor, features_BPF: Tensor, count_B: Tensor, masks: int) -> None:
        """Input rows of `ids_BP.shape[0]` slots, each P committed rows and then the first `masks` masks."""
        weights = self.weights
        ops.draft_inputs(
            ids_BP, features_BPF, count_B, self.mask_inputs_JM[:masks], weights.fc_MW,
            rows.residual_RM.unflatten(0, (len(count_B), -1)),
            table_VM=self.table_VE, bias_M=weights.fc_bias_M, anchor_map_MW=weights.anchor_map_MW,
        )  # fmt: skip

    def _apply_blocks(self, own: FeatureState) -> None:
        """The residual block of every drafted depth, in place on the predicting rows."""
        M = own.block_in_BM.shape[1]
        rows_RM, columns_BX = own.predicting_BKM.flatten(0, 1), own.predicting_BKM.flatten(1)
        for depth, block in enumerate(self.weights.blocks[: len(own.depth_KB1)]):
            ops.gather_features(rows_RM, own.depth_KB1[depth], own.block_in_BM[:, None])
            ops.linear(own.block_in_BM, block.w_MM, own.block_out_BM, bias_O=block.b_M)
            ops.silu_add(own.block_out_BM, own.block_in_BM)
            ops.store_tap(own.block_in_BM, columns_BX, depth * M)


def own_or_target_table(weights: FeatureWeights, target: Target, dtype: torch.dtype) -> Weight:
    """The drafter's token embeddings, or the target's, in the drafter's dtype or int8."""
    table_VE = target.decoder.embed_VM if weights.embed_VE is None else weights.embed_VE
    return table_VE if isinstance(table_VE, Int8Weight) else table_VE.to(dtype)
