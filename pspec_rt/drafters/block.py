"""DFlash: a block of masks denoised in one pass, over keys and values made of the target's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..kv_cache import KVCache
from ..models.target import Target
from ..models.workspace import Rows, Workspace
from ..state import DecodeState
from .base import DraftRows, cast_features
from .candidates import check_candidates, rank_candidates
from .config import FeatureConfig
from .feature import FeatureDrafter, own_or_target_table
from .weights import FeatureWeights


@dataclass
class BlockState:
    """Buffers of a block drafter; P context rows and N block rows per slot."""

    context: DraftRows  # of the tokens emitted last round
    block: DraftRows  # the newest token and the masks
    one_B: Tensor  # int32 ones: the block has one real token
    words_BN: Tensor  # every row of a block sees all of it
    take_BK: Tensor  # int32, the rows that predict
    cache: KVCache
    work: Workspace
    context_work: Workspace
    features_BPF: Tensor | None
    predicting_BKM: Tensor


class BlockDrafter(FeatureDrafter):
    """DFlash (arXiv 2602.06036): B rows, the newest token and B-1 masks, see each other both ways and the whole text.

    Of the text they see keys and values of hidden_norm(fc(features)), the same input in every layer; only those stay
    in the cache. A mask row predicts the token at its own position. Embedding and head are the target's.
    """

    def __init__(self, config: FeatureConfig, weights: FeatureWeights, target: Target) -> None:
        super().__init__(config, weights, target)
        self.embed_VM = own_or_target_table(weights, target, self.dtype)

    def token_table(self, target: Target) -> None:
        return None

    def mask_inputs(self) -> Tensor:
        return self.weights.fc_MW.new_empty(0, self.weights.fc_MW.shape[0])

    def scratch_rows(self, k: int) -> int:
        return self.config.k + 1

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        check_candidates(state, self.head_DM.shape[0], self.kind)
        shape, layers, N = state.shape, self.config.layers, self.config.k + 1
        B, K = shape.B, shape.K
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        take_K = torch.arange(1, K + 1, dtype=torch.int32, device=self.device)
        self.stack.rope.reserve(shape.S)
        state.drafter = BlockState(
            context=DraftRows(state, masks=0, shift=-1),
            block=DraftRows(state, masks=N - 1, shift=0, mask_id=self.config.mask_id, tokens=1),
            one_B=torch.ones(B, dtype=torch.int32, device=self.device),
            words_BN=torch.full((B, N), (1 << N) - 1 if N < 64 else -1, dtype=torch.int64, device=self.device),
            take_BK=take_K.repeat(B, 1),
            cache=KVCache.allocate(layers.num_layers, B, layers.num_kv_heads, shape.S, layers.head_dim, **options),
            work=Workspace(layers, B * N, **options),
            context_work=Workspace(layers, max(B * shape.P, prefill_rows), **options),
            features_BPF=None if self.dtype == state.dtype else torch.zeros(state.features_BPF.shape, **options),
            predicting_BKM=torch.zeros(B, K, layers.hidden_size, **options),
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
        assert features_TF is not None, "the target taps what the drafter reads"
        own: BlockState = state.drafter
        T, device = len(ids_T), features_TF.device
        positions_1T = torch.arange(start, start + T, dtype=torch.int32, device=device)[None]
        prefix_1 = torch.full((1,), start, dtype=torch.int32, device=device)
        rows = own.context_work.rows(T)
        self._take_in(rows, features_TF.to(self.dtype)[None], positions_1T, prefix_1, own.cache.slot(slot))

    def draft(self, state: DecodeState) -> None:
        own: BlockState = state.drafter
        context, block = own.context, own.block
        context.fill(state)
        features_BPF = cast_features(state, own.features_BPF)
        rows = own.context_work.rows(context.ids_BN.numel())
        self._take_in(rows, features_BPF, context.positions_BN, context.prefix_B, own.cache)
        block.place(state.bonus_B[:, None], own.one_B, state.length_B)
        rows = own.work.rows(block.ids_BN.numel())
        ops.embed(block.ids_BN.view(-1), self.embed_VM, rows.residual_RM)
        hidden_RM = self.stack.forward(
            rows, block.positions_BN, block.prefix_B, own.words_BN, own.cache, norm_M=self.weights.norm_M
        )
        ops.gather_features(hidden_RM, own.take_BK, own.predicting_BKM)
        rank_candidates(state, own.predicting_BKM.flatten(0, 1), self.head_DM, self.id_map_D)

    def _take_in(
        self, rows: Rows, features_BTF: Tensor, positions_BT: Tensor, prefix_B: Tensor, cache: KVCache
    ) -> None:
        """Every layer's keys and values of T positions per slot. Padding rows land where the block's will."""
        layers, eps, B = self.stack.layers, self.config.layers.rms_norm_eps, len(prefix_B)
        assert self.weights.hidden_norm_M is not None
        ops.linear(features_BTF.flatten(0, 1), self.weights.fc_MW, rows.residual_RM, bias_O=self.weights.fc_bias_M)
        ops.add_rms_norm(None, rows.residual_RM, self.weights.hidden_norm_M, eps, rows.hidden_RM)
        rope, q_BTHE = self.stack.rope, rows.q_RHE.unflatten(0, (B, -1))
        for index, layer in enumerate(layers):
            ops.linear(rows.hidden_RM, layer.qkv_XM, rows.qkv_RX, bias_O=layer.qkv_bias_X)
            ops.rope_append(
                rows.qkv_RX, positions_BT, prefix_B, rope.cos_SE, rope.sin_SE, *cache.layer(index), q_BTHE,
                q_norm_E=layer.q_norm_E, k_norm_E=layer.k_norm_E, eps=eps,
            )  # fmt: skip
