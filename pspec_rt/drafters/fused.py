"""Which feature drafters run as one launch (op draft_forward) instead of op by op."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..kv_cache import KVCache
from ..models.decoder import Stack
from ..ops.draft_forward import DraftHead, draft_forward_misfit
from ..quantize import Int8Weight, Weight
from .base import DraftRows
from .weights import FeatureWeights

log = logging.getLogger("pspec_rt")


def head_for_one_launch(
    weights: FeatureWeights,
    stack: Stack,
    table_VZ: Weight | None,
    head_DM: Weight,
    rows: DraftRows,
    cache: KVCache,
    C: int,
) -> DraftHead | None:
    """The weights as draft_forward takes them, None if the pass must go op by op; one log line says which and why.

    Args:
        stack: with RoPE tables that cover the cache; they may not grow afterwards.
        rows, cache: of one round; C: candidates per depth.
    """
    head, (B, N), k_BGSE = _head(weights, stack, table_VZ, head_DM), rows.positions_BN.shape, cache.layer(0)[0]
    misfit = head if isinstance(head, str) else draft_forward_misfit(head, B, N, C, k_BGSE, k_BGSE.device.type)
    log.info("draft pass: %s", "one launch (draft_forward)" if misfit is None else f"op by op ({misfit})")
    return None if isinstance(head, str) or misfit is not None else head


def _head(weights: FeatureWeights, stack: Stack, table_VZ: Weight | None, head_DM: Weight) -> DraftHead | str:
    """The drafter as one layer between inputs and head, or in what it is something else."""
    if len(stack.layers) != 1:
        return f"it has {len(stack.layers)} layers"
    layer = stack.layers[0]
    matrices = (weights.fc_MW, table_VZ, layer.qkv_XM, layer.o_MO, layer.gate_up_2IM, layer.down_MI, head_DM)
    biases = (layer.qkv_bias_X, layer.o_bias_M, layer.gate_up_bias_2I, layer.down_bias_M)
    if any(isinstance(matrix, Int8Weight) for matrix in matrices):
        return "its weights are int8"
    if weights.blocks or weights.anchor_map_MW is not None:
        return "it has residual blocks or an anchor map"
    if layer.window or layer.q_norm_E is not None or any(bias is not None for bias in biases):
        return "its layer has a window, norms of heads or biases"
    if layer.input_norm_M is None or weights.norm_M is None or weights.embed_norm_M is not None:
        return "its norms are others"
    fc_MW, table, qkv_XM, o_MO, gate_up_2IM, down_MI, head = (_float(matrix) for matrix in matrices)
    assert fc_MW is not None and qkv_XM is not None and o_MO is not None
    assert gate_up_2IM is not None and down_MI is not None and head is not None
    rope = stack.rope
    return DraftHead(
        fc_MW, weights.fc_bias_M, table, layer.input_norm_M, qkv_XM, o_MO, layer.post_norm_M, gate_up_2IM, down_MI,
        weights.norm_M, head, rope.cos_SE, rope.sin_SE, stack.config.rms_norm_eps,
    )  # fmt: skip


def _float(matrix: Weight | None) -> Tensor | None:
    return matrix if isinstance(matrix, torch.Tensor) else None
