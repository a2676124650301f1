"""Weights of a feature drafter: their shapes, where each checkpoint tensor goes, random values."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..models.layers import LayerWeights
from ..models.memory import Arena
from ..quantize import Int8Weight, Weight, quantize
from .config import DFLASH, EAGLE, EAGLE1, MEDUSA, PEAGLE, FeatureConfig

D2T = "d2t"
HEAD = "lm_head.weight"
MASK_EMBEDDING = "mask_embedding.weight"
MASK_HIDDEN = "mask_hidden"
INIT_STD = 0.02


@dataclass
class ResBlock:
    """x + silu(W x + b), one per drafted depth, before the head."""

    w_MM: Weight
    b_M: Tensor | None


@dataclass
class FeatureWeights:
    """Tensors of a feature drafter, E being the width of a mask embedding. `None`: the checkpoint has none.

    Without `embed_VE` and `head_DM` the target's own serve; `d2t_D` [D] int64 maps head row i to token i + d2t[i].
    """

    fc_MW: Tensor
    layers: list[LayerWeights]
    norm_M: Tensor | None  # EAGLE-1 has none
    mask_embedding_JE: Tensor
    mask_feature_F: Tensor | None = None
    fc_bias_M: Tensor | None = None
    anchor_map_MW: Tensor | None = None
    embed_VE: Weight | None = None
    head_DM: Weight | None = None
    d2t_D: Tensor | None = None
    blocks: tuple[ResBlock, ...] = ()
    embed_norm_M: Tensor | None = None  # of EAGLE-3's first layer
    hidden_norm_M: Tensor | None = None
    mask_hidden_F: Tensor | None = None  # P-EAGLE: the features of every mask
    first: str = "layers.0."  # what a checkpoint calls the first layer

    @classmethod
    def empty(
        cls,
        config: FeatureConfig,
        optional: Collection[str],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> FeatureWeights:
        """Uninitialised weights; `optional` names the tensors present of those a checkpoint may lack (not d2t)."""

        memory = Arena(device)

        def new(*size: int) -> Tensor:
            return memory.empty(*size, dtype=dtype)

        def new_if(present: bool, *size: int) -> Tensor | None:
            return new(*size) if present else None

        M, D, J, F = (
            config.layers.hidden_size,
            config.draft_vocab,
            config.k - 1,
            config.feature_width,
        )
        W = config.embedding_width + F
        if config.kind not in (EAGLE, MEDUSA):
            J = 0
        block = "res_blocks.0.linear."
        depths = config.k if f"{block}weight" in optional else 0
        joins = config.joins_norms
        return cls(
            fc_MW=new(M, W),
            layers=[
                LayerWeights.empty(
                    config.layers,
                    i,
                    dtype,
                    memory,
                    input_norm=i > 0 or not (joins or config.kind == EAGLE1),
                    joined=joins and i == 0,
                )
                for i in range(config.layers.num_layers)
            ],
            norm_M=new_if(config.kind != EAGLE1, M),
            mask_embedding_JE=new(J, config.mask_width),
            mask_feature_F=new_if(config.kind == EAGLE and J > 0, F),
            fc_bias_M=new_if("fc.bias" in optional, M),
            anchor_map_MW=new_if("anchor_map.weight" in optional, M, W),
            embed_VE=new_if(
                "embed_tokens.weight" in optional and config.kind != MEDUSA,
                config.layers.vocab_size,
                config.embedding_width or M,
            ),
            head_DM=new_if(HEAD in optional, D, M),
            blocks=tuple(ResBlock(new(M, M), new_if(f"{block}bias" in optional, M)) for _ in range(depths)),
            embed_norm_M=new_if(joins, M),
            hidden_norm_M=new_if(joins or config.kind == DFLASH, M),
            mask_hidden_F=new_if(config.kind == PEAGLE, F),
            first="midlayer." if "midlayer.hidden_norm.weight" in optional else "layers.0.",
        )

    def pieces(self, config: FeatureConfig) -> dict[str, Tensor]:
        """{checkpoint tensor name: the view it is copied into}; all but d2t. Of float weights."""
        pieces: dict[str, Weight | None] = {
            "fc.weight": self.fc_MW,
            "fc.bias": self.fc_bias_M,
            MASK_EMBEDDING: self.mask_embedding_JE if self.mask_embedding_JE.numel() else None,
            "mask_feature": self.mask_feature_F,
            "anchor_map.weight": self.anchor_map_MW,
            "norm.weight": self.norm_M,
            HEAD: self.head_DM,
            "embed_tokens.weight": self.embed_VE,
            f"{self.first}input_layernorm.weight": self.embed_norm_M,
            f"{self.first if config.joins_norms else ''}hidden_norm.weight": self.hidden_norm_M,
            MASK_HIDDEN: self.mask_hidden_F,
        }
        for depth, block in enumerate(self.blocks):
            pieces |= {
                f"res_blocks.{depth}.linear.weight": block.w_MM,
                f"res_blocks.{depth}.linear.bias": block.b_M,
            }
        for index, layer in enumerate(self.layers):
            pieces |= layer.pieces(config.layers, f"layers.{index}." if index else self.first)
        return {name: tensor for name, tensor in pieces.items() if isinstance(tensor, Tensor)}

    def quantized(self, a8: bool) -> FeatureWeights:
        """The same weights with int8 matrices, but for those of `draft_inputs`, all in memory of its own."""
        memory = Arena(self.fc_MW.device)

        def rounded(weight: Weight) -> Int8Weight:
            assert isinstance(weight, Tensor), "rounded already"
            return quantize(weight, a8, memory.empty)

        own: dict[str, Any] = {}
        for field in fields(self):
            weight = getattr(self, field.name)
            if isinstance(weight, Tensor):
                own[field.name] = rounded(weight) if field.name in ("embed_VE", "head_DM") else memory.copy(weight)
        own["layers"] = [layer.quantized(a8, memory) for layer in self.layers]
        biases = [None if block.b_M is None else memory.copy(block.b_M) for block in self.blocks]
        own["blocks"] = tuple(ResBlock(rounded(b.w_MM), bias) for b, bias in zip(self.blocks, biases, strict=True))
        return replace(self, **own)

    @property
    def nbytes(self) -> int:
        own = [getattr(self, field.name) for field in fields(self)]
        parts = [weight for block in self.blocks for weight in (block.w_MM, block.b_M)]
        weights = [weight for weight in (*own, *parts) if isinstance(weight, (Tensor, Int8Weight))]
        return sum(weight.nbytes for weight in weights) + sum(layer.nbytes for layer in self.layers)


def randomize(pieces: Iterable[tuple[str, Tensor]], seed: int) -> None:
    """Fill weights as a fresh model's: normal with standard deviation 0.02, norms 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in pieces:
        if name.endswith("norm.weight"):
            tensor.fill_(1)
        elif name.endswith("bias"):
            tensor.zero_()
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * INIT_STD)
