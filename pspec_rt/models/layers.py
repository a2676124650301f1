"""LayerWeights: one layer's weights, fused as kernels read them; where checkpoint tensors go."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..quantize import Int8Weight, Weight, quantize
from .config import ModelConfig
from .memory import Arena


@dataclass
class LayerWeights:
    """Weights of one layer (X = (H+2G)*E rows [q | k | v], O = H*E); None: the family has none."""

    qkv_XM: Weight
    o_MO: Weight
    gate_up_2IM: Weight  # gate rows, then up rows
    down_MI: Weight
    input_norm_M: Tensor | None  # None: attention reads the residual stream itself (EAGLE-1)
    post_norm_M: Tensor
    qkv_bias_X: Tensor | None = None
    o_bias_M: Tensor | None = None
    gate_up_bias_2I: Tensor | None = None
    down_bias_M: Tensor | None = None
    q_norm_E: Tensor | None = None
    k_norm_E: Tensor | None = None
    window: int = 0  # sliding window in positions, 0 = full attention

    @classmethod
    def empty(
        cls,
        config: ModelConfig,
        index: int,
        dtype: torch.dtype,
        memory: Arena,
        *,
        input_norm: bool = True,
        joined: bool = False,
    ) -> LayerWeights:
        """Uninitialised weights of layer `index`, from `memory`; `joined`: attention reads rows twice as wide."""

        def new(*size: int) -> Tensor:
            return memory.empty(*size, dtype=dtype)

        M, E, I = config.hidden_size, config.head_dim, config.intermediate_size
        X, O = config.qkv_width, config.num_heads * E
        return cls(
            qkv_XM=new(X, 2 * M if joined else M),
            o_MO=new(M, O),
            gate_up_2IM=new(2 * I, M),
            down_MI=new(M, I),
            input_norm_M=new(M) if input_norm else None,
            post_norm_M=new(M),
            qkv_bias_X=new(X) if config.qkv_bias else None,
            o_bias_M=new(M) if config.o_bias else None,
            gate_up_bias_2I=new(2 * I) if config.mlp_bias else None,
            down_bias_M=new(M) if config.mlp_bias else None,
            q_norm_E=new(E) if config.qk_norm else None,
            k_norm_E=new(E) if config.qk_norm else None,
            window=config.windows[index],
        )

    def pieces(self, config: ModelConfig, prefix: str) -> dict[str, Tensor]:
        """{Hugging Face's tensor name: the view of the fused weights that it is copied into}; of float weights."""
        H, G, E = config.num_heads, config.num_kv_heads, config.head_dim
        pieces: dict[str, Weight | None] = {
            "self_attn.o_proj.weight": self.o_MO,
            "self_attn.o_proj.bias": self.o_bias_M,
            "mlp.down_proj.weight": self.down_MI,
            "mlp.down_proj.bias": self.down_bias_M,
            "input_layernorm.weight": self.input_norm_M,
            "post_attention_layernorm.weight": self.post_norm_M,
            "self_attn.q_norm.weight": self.q_norm_E,
            "self_attn.k_norm.weight": self.k_norm_E,
        }
        for kind, qkv, gate_up in (
            ("weight", self.qkv_XM, self.gate_up_2IM),
            ("bias", self.qkv_bias_X, self.gate_up_bias_2I),
        ):
            assert not isinstance(qkv, Int8Weight) and not isinstance(gate_up, Int8Weight), "int8 has no views of parts"
            if qkv is not None:
                q, k, v = qkv.split([H * E, G * E, G * E])
                pieces |= {f"self_attn.{part}_proj.{kind}": t for part, t in (("q", q), ("k", k), ("v", v))}
            if gate_up is not None:
                gate, up = gate_up.chunk(2)
                pieces |= {f"mlp.{part}_proj.{kind}": t for part, t in (("gate", gate), ("up", up))}
        return {prefix + name: tensor for name, tensor in pieces.items() if isinstance(tensor, Tensor)}

    def quantized(self, a8: bool, memory: Arena) -> LayerWeights:
        """The same layer with int8 matrices, all of it in `memory`."""
        own: dict[str, Any] = {}
        for field in fields(self):
            weight = getattr(self, field.name)
            if isinstance(weight, Tensor):
                own[field.name] = quantize(weight, a8, memory.empty) if weight.dim() == 2 else memory.copy(weight)
        return replace(self, **own)

    @property
    def nbytes(self) -> int:
        weights = (getattr(self, field.name) for field in fields(self))
        return sum(weight.nbytes for weight in weights if isinstance(weight, (Tensor, Int8Weight)))
