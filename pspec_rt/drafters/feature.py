"""FeatureDrafter: one pass over the rows accepted last round and K-1 mask rows, fed by the target's features."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..kv_cache import KVCache
from ..models.config import ModelConfig
from ..models.decoder import Stack
from ..models.rope import Rope
from ..models.target import Target
from ..models.workspace import Rows, Workspace
from ..quantize import Weight, select_rows
from ..state import DecodeState
from .base import Drafter, DraftRows
from .candidates import as_id_map, check_candidates, rank_candidates
from .checks import check_saveable
from .config import FeatureConfig
from .weights import D2T, FeatureWeights


@dataclass
class FeatureState:
    """Buffers of a feature drafter, Md being its own width."""

    rows: DraftRows
    cache: KVCache
    work: Workspace
    features_BPF: Tensor | None  # only where the drafter's dtype is not the target's
    predicting_RM: Tensor  # [B*K, Md] rows that predict, depth by depth
    block_in_BM: Tensor  # one depth of them, before and after its residual block's linear part
    block_out_BM: Tensor


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
        self.max_k = self.default_k = config.k
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

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_saveable(self.kind, self.weights.layers[0].qkv_XM)
        tensors = self.weights.pieces(self.config)
        if self.weights.d2t_D is not None:
            tensors[D2T] = self.weights.d2t_D
        return self.config.raw, tensors

    def check_fit(self, target: ModelConfig) -> None:
        self.config.check_fit(target)

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        check_candidates(state, self.head_DM.shape[0], self.kind)
        shape, layers = state.shape, self.config.layers
        B, M = shape.B, layers.hidden_size
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        rows = DraftRows(state, masks=shape.K - 1, shift=-1)
        self.stack.rope.reserve(shape.S)
        state.drafter = FeatureState(
            rows=rows,
            cache=KVCache.allocate(layers.num_layers, B, layers.num_kv_heads, shape.S, layers.head_dim, **options),
            work=Workspace(layers, max(B * rows.N, prefill_rows), **options),
            features_BPF=None if self.dtype == state.dtype else torch.zeros(state.features_BPF.shape, **options),
            predicting_RM=torch.zeros(B * shape.K, M, **options),
            block_in_BM=torch.zeros(B, M, **options),
            block_out_BM=torch.zeros(B, M, **options),
        )

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
        self.stack.prefill(rows, start, own.cache.slot(slot))

    def draft(self, state: DecodeState) -> None:
        own: FeatureState = state.drafter
        own.rows.fill(state)
        rows = own.work.rows(own.rows.positions_BN.numel())
        features_BPF = state.features_BPF
        if own.features_BPF is not None:
            features_BPF = own.features_BPF.copy_(features_BPF)
        self._write_inputs(rows, state.emitted_BP, features_BPF, state.count_B, masks=state.shape.K - 1)
        hidden_RM = self.stack.forward(
            rows,
            own.rows.positions_BN,
            own.rows.prefix_B,
            own.rows.words_BN,
            own.cache,
            norm_M=self.weights.norm_M,
        )
        torch.index_select(hidden_RM, 0, own.rows.take_BK.view(-1), out=own.predicting_RM)
        self._apply_blocks(state, own)
        rank_candidates(state, own.predicting_RM, self.head_DM, self.id_map_D)

    def _write_inputs(self, rows: Rows, ids_BP: Tensor, features_BPF: Tensor, count_B: Tensor, masks: int) -> None:
        """Input rows of `ids_BP.shape[0]` slots, each P committed rows and then the first `masks` masks."""
        weights = self.weights
        ops.draft_inputs(
            ids_BP, features_BPF, count_B, self.mask_inputs_JM[:masks], weights.fc_MW,
            rows.residual_RM.unflatten(0, (len(count_B), -1)),
            table_VM=self.table_VE, bias_M=weights.fc_bias_M, anchor_map_MW=weights.anchor_map_MW,
        )  # fmt: skip

    def _apply_blocks(self, state: DecodeState, own: FeatureState) -> None:
        """The residual block of every drafted depth, in place on the predicting rows."""
        predicting_BKM = own.predicting_RM.unflatten(0, (state.shape.B, -1))
        for depth, block in enumerate(self.weights.blocks[: state.shape.K]):
            own.block_in_BM.copy_(predicting_BKM[:, depth])
            ops.linear(own.block_in_BM, block.w_MM, own.block_out_BM, bias_O=block.b_M)
            predicting_BKM[:, depth] += F.silu(own.block_out_BM)
