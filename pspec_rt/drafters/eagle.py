"""Published EAGLE heads: EAGLE-1 and EAGLE-3, level by level, and P-EAGLE, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..models.target import Target
from ..models.workspace import Rows
from ..quantize import Weight
from ..state import DecodeState
from ..tree import TreeSpec
from .config import EAGLE1, FeatureConfig
from .feature import FeatureDrafter, FeatureState, own_or_target_table
from .growth import Growth, LevelRows
from .head import HeadDrafter
from .weights import FeatureWeights

# EAGLE-1's published tree (arXiv 2401.15077): ranks of every path.
STATIC_TREE = "0 1 2 3 00 01 02 10 11 20 21 30 000 001 002 010 011 020 021 100 0000 0001 0002 00000 00001"
DYNAMIC_NODES, DYNAMIC_WIDTH = 60, 10  # EAGLE-2's and EAGLE-3's defaults


@dataclass
class EagleState(FeatureState):
    growth: Growth
    anchor_B1M: Tensor  # the anchor as the layers left it
    above_BWM: list[Tensor]  # a level's rows: what the layers made of their parents
    no_masks_JM: Tensor


class EagleDrafter(HeadDrafter):
    """EAGLE-1 (arXiv 2401.15077): the row of position t is fc([embed(token t+1) ; features t]).

    Drafted tokens go through the same layer, with what it made of their parent in the features' place; so their rows
    never stay in the cache, which holds real features only. EAGLE-1's own tree is fixed; with a best-first tree it is
    EAGLE-2 (arXiv 2406.16858).
    """

    grows_tree = True

    def default_tree(self, k: int) -> TreeSpec:
        if self.kind != EAGLE1:
            return TreeSpec.best_first(k, DYNAMIC_NODES, DYNAMIC_WIDTH) if k > 1 else TreeSpec.chain(1)
        paths = [tuple(map(int, path)) for path in STATIC_TREE.split() if len(path) <= k]
        return TreeSpec.static(paths, name="eagle")

    def mask_inputs(self) -> Tensor:
        return self.weights.fc_MW.new_empty(0, self.weights.fc_MW.shape[0])

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        growth, B, M = Growth(state, shift=-1), state.shape.B, self.config.layers.hidden_size
        buffers = self._buffers(state, masks=0, other_rows=max(prefill_rows, B * growth.most_rows))

        def new(*size: int) -> Tensor:
            return torch.zeros(size, dtype=self.dtype, device=self.device)

        above_BWM = [new(B, level.rows.ids_BW.shape[1], M) for level in growth.levels]
        state.drafter = EagleState(
            **buffers, growth=growth, anchor_B1M=new(B, 1, M), above_BWM=above_BWM, no_masks_JM=new(0, M)
        )

    def draft(self, state: DecodeState) -> None:
        own: EagleState = state.drafter
        growth = own.growth
        hidden_RM, left_RM = self._pass(state, own)
        ops.gather_features(hidden_RM, own.rows.take_BK, own.predicting_BKM)
        ops.gather_features(left_RM, own.rows.take_BK, own.anchor_B1M)
        growth.rank(state, 0, own.predicting_BKM.flatten(0, 1), self.head_DM, self.id_map_D)
        left_RM = own.anchor_B1M.flatten(0, 1)
        for depth, level in enumerate(growth.levels[1:], start=1):
            ops.gather_features(left_RM, level.rows.parent_BW, own.above_BWM[depth])
            rows = own.work.rows(level.rows.ids_BW.numel())
            self._write_level(own, rows, level.rows, own.above_BWM[depth], state.count_B)
            hidden_RM = self.stack.forward(
                rows, level.rows.positions_BW, growth.prefix_B, level.rows.words_BW, own.cache,
                norm_M=self.weights.norm_M, append_B=growth.append_B,
                first_RW=self._join(own, rows, level.rows.ids_BW.view(-1)),
            )  # fmt: skip
            left_RM = rows.residual_RM
            growth.rank(state, depth, hidden_RM, self.head_DM, self.id_map_D)
        growth.finish(state)

    def _write_level(self, own: EagleState, rows: Rows, level: LevelRows, above_BWM: Tensor, count_B: Tensor) -> None:
        """Input rows of drafted tokens."""
        ops.draft_inputs(
            level.ids_BW, above_BWM, count_B, own.no_masks_JM, self.weights.fc_MW,
            rows.residual_RM.unflatten(0, above_BWM.shape[:2]), table_VM=self.table_VE, bias_M=self.weights.fc_bias_M,
        )  # fmt: skip


class JoinedRows(FeatureDrafter):
    """EAGLE-3's first layer (arXiv 2503.01840): attention reads [normed embedding ; normed features].

    The residual stream starts as fc(features), or as what the layers made of the parent.
    """

    def __init__(self, config: FeatureConfig, weights: FeatureWeights, target: Target) -> None:
        super().__init__(config, weights, target)
        self.embed_VM = own_or_target_table(weights, target, self.dtype)

    def token_table(self, target: Target) -> Weight | None:
        return None

    def _join(self, own: FeatureState, rows: Rows, ids_R: Tensor) -> Tensor:
        R, M = rows.residual_RM.shape
        assert own.join is not None and self.weights.embed_norm_M is not None and self.weights.hidden_norm_M is not None
        embedded_RM, normed_RM, joined_RW = own.join.embedded_RM[:R], own.join.normed_RM[:R], own.join.joined_RW[:R]
        eps = self.config.layers.rms_norm_eps
        ops.embed(ids_R, self.embed_VM, embedded_RM)
        ops.add_rms_norm(None, embedded_RM, self.weights.embed_norm_M, eps, normed_RM)
        ops.store_tap(normed_RM, joined_RW, 0)
        ops.add_rms_norm(None, rows.residual_RM, self.weights.hidden_norm_M, eps, normed_RM)
        ops.store_tap(normed_RM, joined_RW, M)
        if self.config.norm_before_residual:
            ops.store_tap(normed_RM, rows.residual_RM, 0)
        return joined_RW


class Eagle3Drafter(JoinedRows, EagleDrafter):
    """EAGLE-3 (arXiv 2503.01840), level by level."""

    def _write_level(self, own: EagleState, rows: Rows, level: LevelRows, above_BWM: Tensor, count_B: Tensor) -> None:
        ops.store_tap(above_BWM.flatten(0, 1), rows.residual_RM, 0)


class ParallelEagleDrafter(JoinedRows):
    """P-EAGLE (arXiv 2602.01469): EAGLE-3's rows, and masks that share one token and one learned feature vector."""

    def mask_inputs(self) -> Tensor:
        weights = self.weights
        assert weights.mask_hidden_F is not None
        mask_1M = F.linear(weights.mask_hidden_F[None], weights.fc_MW, weights.fc_bias_M)
        return mask_1M.repeat(self.max_k - 1, 1)
