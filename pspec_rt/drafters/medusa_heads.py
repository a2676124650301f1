"""Medusa heads: one residual head per depth on the target's newest hidden state; no layers, no cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import CheckpointError, DrafterMismatchError
from ..models.config import ModelConfig
from ..models.memory import Arena
from ..models.weights import Checkpoint
from ..quantize import Int8Weight, Weight, first_rows, quantize
from ..state import DecodeState
from ..tree import TreeSpec, medusa_tree
from .base import Drafter, DraftRows, cast_features
from .candidates import check_candidates, rank_candidates, shared_noise
from .checks import VOCAB_PADDING, check_saveable
from .config import MEDUSA_HEADS
from .weights import ResBlock

_LAST = re.compile(r"(\d+)\.(\d+)\.weight")


@dataclass
class MedusaHead:
    blocks: list[ResBlock]
    w_VM: Weight


@dataclass
class MedusaState:
    rows: DraftRows  # of which only the anchor matters
    x_BM: Tensor  # the anchor's feature, then what a head's blocks make of it
    features_BPM: Tensor | None  # only where the heads' dtype is not the target's
    feature_BM: Tensor
    inner_BM: Tensor
    x_BKM: Tensor  # of every depth; read where one output matrix serves them all
    ids_BC: Tensor
    scores_BC: Tensor
    temperature_B1: Tensor
    zero_B1: Tensor
    noise_row_KB: Tensor


class MedusaHeadsDrafter(Drafter):
    """Medusa (arXiv 2401.10774): head k reads the state that gave the newest token and guesses k tokens past it.

    Args:
        heads: as loaded, in order.
        raw: the config.json, written back by `save_drafter`.
    """

    kind = MEDUSA_HEADS
    taps = (-1,)

    def __init__(self, heads: list[MedusaHead], raw: dict[str, Any], target: ModelConfig) -> None:
        self.heads, self.raw = heads, raw
        self.max_k = self.default_k = len(heads)
        self.check_fit(target)
        self.head_VM = [first_rows(head.w_VM, target.vocab_size) for head in heads]
        weights = list({id(head.w_VM): head.w_VM for head in heads}.values())
        self.one_output = len(weights) == 1
        weights += [w for head in heads for block in head.blocks for w in (block.w_MM, block.b_M) if w is not None]
        self.nbytes = sum(w.nbytes for w in weights)
        bias = heads[0].blocks[0].b_M if heads[0].blocks else None
        self.dtype = heads[0].w_VM.dtype if isinstance(heads[0].w_VM, Tensor) else torch.bfloat16
        assert bias is None or bias.dtype == self.dtype

    def default_tree(self, k: int) -> TreeSpec:
        return medusa_tree(k)

    def scratch_rows(self, k: int) -> int:
        return 0

    def check_fit(self, target: ModelConfig) -> None:
        V, M = self.heads[0].w_VM.shape
        if abs(V - target.vocab_size) >= VOCAB_PADDING or M != target.hidden_size:
            raise DrafterMismatchError(
                f"the Medusa heads were made for a vocabulary of {V} tokens and hidden states of width {M}, the target "
                f"({target.architecture}) has {target.vocab_size} and {target.hidden_size}: use heads made for it"
            )

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_saveable(self.kind, self.heads[0].w_VM)
        return self.raw, head_pieces(self.heads)

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        check_candidates(state, self.head_VM[0].shape[0], self.kind)
        B, C, M, device = state.shape.B, state.shape.C, self.heads[0].w_VM.shape[1], state.device

        def new(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        state.drafter = MedusaState(
            rows=DraftRows(state, masks=0, shift=-1),
            x_BM=new(B, M, dtype=self.dtype),
            features_BPM=None if self.dtype == state.dtype else new(B, state.shape.P, M, dtype=self.dtype),
            feature_BM=new(B, M, dtype=self.dtype),
            inner_BM=new(B, M, dtype=self.dtype),
            x_BKM=new(B, state.shape.K, M, dtype=self.dtype),
            ids_BC=new(B, C, dtype=torch.int32),
            scores_BC=new(B, C, dtype=torch.float32),
            temperature_B1=new(B, 1, dtype=torch.float32),
            zero_B1=new(B, 1, dtype=torch.int32),
            noise_row_KB=state.noise_row_BK.T.contiguous(),
        )

    def prefill(
        self, state: DecodeState, slot: int, start: int, ids_T: Tensor, next_ids_T: Tensor, features_TF: Tensor | None
    ) -> None:
        """Nothing to take in: the newest feature is all that counts."""

    def draft(self, state: DecodeState) -> None:
        own: MedusaState = state.drafter
        own.rows.fill(state)
        C, M = state.shape.C, own.x_BM.shape[1]
        features_BPM = cast_features(state, own.features_BPM)
        ops.gather_features(features_BPM.flatten(0, 1), own.rows.take_BK, own.feature_BM[:, None])
        if state.mode != "greedy":
            ops.gather_features(state.temperature_BK.view(-1, 1), own.zero_B1, own.temperature_B1[:, None])
        for depth, head in enumerate(self.heads[: state.shape.K]):
            ops.store_tap(own.feature_BM, own.x_BM, 0)
            for block in head.blocks:
                ops.linear(own.x_BM, block.w_MM, own.inner_BM, bias_O=block.b_M)
                ops.silu_add(own.inner_BM, own.x_BM)
            if self.one_output:
                ops.store_tap(own.x_BM, own.x_BKM.flatten(1), depth * M)
                continue
            noise = shared_noise(state, own.temperature_B1.view(-1), own.noise_row_KB[depth])
            ops.head_top_k(own.x_BM, self.head_VM[depth], own.ids_BC, own.scores_BC, **noise)
            ops.store_tap(own.ids_BC, state.candidate_ids_BKC.flatten(1), depth * C)
            ops.store_tap(own.scores_BC, state.candidate_scores_BKC.flatten(1), depth * C)
        if self.one_output:
            rank_candidates(state, own.x_BKM.flatten(0, 1), self.head_VM[0])


def count_heads(checkpoint: Checkpoint) -> tuple[int, int]:
    """(heads, residual blocks of each) by the tensors alone: configs are known to lie."""
    found = [match for name in checkpoint.names if (match := _LAST.fullmatch(name))]
    heads, blocks = {int(m[1]) for m in found}, {int(m[2]) for m in found}
    if not found or heads != set(range(len(found))) or len(blocks) != 1:
        raise CheckpointError(f"{checkpoint.folder}: expected Medusa heads 0.N.weight, 1.N.weight, .. of one N")
    return len(found), blocks.pop()


def empty_heads(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str) -> list[MedusaHead]:
    """Uninitialised heads of the sizes a checkpoint has."""
    (count, depth), memory = count_heads(checkpoint), Arena(device)
    V, M = checkpoint.shape(f"0.{depth}.weight")

    def new(*size: int) -> Tensor:
        return memory.empty(*size, dtype=dtype)

    return [MedusaHead([ResBlock(new(M, M), new(M)) for _ in range(depth)], new(V, M)) for _ in range(count)]


def share_outputs(heads: list[MedusaHead]) -> None:
    """Heads whose output matrices are equal keep one of them: one pass over it ranks every depth.

    Heads that were trained without their output matrix (Medusa-1 may freeze it) all hold the target's rows.
    """
    first = heads[0].w_VM
    assert isinstance(first, Tensor), "shared before they are rounded"
    if all(isinstance(head.w_VM, Tensor) and torch.equal(first, head.w_VM) for head in heads[1:]):
        for head in heads:
            head.w_VM = first


def head_pieces(heads: list[MedusaHead]) -> dict[str, Tensor]:
    """{checkpoint tensor name: weight}, of float weights."""
    pieces: dict[str, Weight | None] = {}
    for i, head in enumerate(heads):
        pieces[f"{i}.{len(head.blocks)}.weight"] = head.w_VM
        for j, block in enumerate(head.blocks):
            pieces |= {f"{i}.{j}.linear.weight": block.w_MM, f"{i}.{j}.linear.bias": block.b_M}
    return {name: tensor for name, tensor in pieces.items() if isinstance(tensor, Tensor)}


def quantized_heads(heads: list[MedusaHead], a8: bool) -> list[MedusaHead]:
    """The same heads with int8 matrices; what they share stays shared."""
    memory = Arena("cpu")
    made: dict[int, Int8Weight] = {}

    def rounded(weight: Weight) -> Int8Weight:
        assert isinstance(weight, Tensor), "rounded already"
        if id(weight) not in made:
            made[id(weight)] = quantize(weight, a8, memory.empty)
        return made[id(weight)]

    return [MedusaHead([ResBlock(rounded(b.w_MM), b.b_M) for b in h.blocks], rounded(h.w_VM)) for h in heads]
