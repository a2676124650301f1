"""Trainable layers: the Llama layers of a drafter over packed rows; parameter names are those of the checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.config import ModelConfig
from ..models.rope import Rope
from .attention import Attend


def linear(x: Tensor, *weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """x times the weights one below the other, in x's dtype; parameters stay fp32 masters."""
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def weight(rows: int, columns: int) -> nn.Linear:
    """A matrix without bias, uninitialised: checkpoints or `init` fill it."""
    return nn.utils.skip_init(nn.Linear, columns, rows, bias=False)


class Norm(nn.Module):
    """RMS norm."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_RM: Tensor) -> Tensor:
        out: Tensor = _RmsNorm.apply(x_RM, self.weight, self.eps)
        return out


class _RmsNorm(torch.autograd.Function):
    """In fp32, with a gradient of few passes: dx = (g w - n mean(g w n)) / rms, n being the normed row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed = x.float()
        inverse = torch.linalg.vector_norm(normed, dim=-1, keepdim=True).square().div(x.shape[-1]).add(eps).rsqrt()
        ctx.save_for_backward(x, weight, inverse)
        return (normed * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        normed, grad = x.float() * inverse, grad.float()
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        grad = grad * weight
        mean = torch.linalg.vecdot(grad, normed).div(x.shape[-1]).unsqueeze(-1)
        return grad.sub_(normed.mul_(mean)).mul_(inverse).to(x.dtype), grad_weight, None


class Attention(nn.Module):
    """Self-attention; `width` of its input rows, if not the model's."""

    def __init__(self, config: ModelConfig, width: int = 0) -> None:
        super().__init__()
        M, H, G, E = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
        width = width or M
        self.sizes = (H, G, G)
        self.head_dim = E
        self.q_proj, self.k_proj, self.v_proj = weight(H * E, width), weight(G * E, width), weight(G * E, width)
        self.o_proj = weight(M, H * E)
        self.q_norm = Norm(E, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = Norm(E, config.rms_norm_eps) if config.qk_norm else None
        for projection, present in (
            (self.q_proj, config.qkv_bias),
            (self.k_proj, config.qkv_bias),
            (self.v_proj, config.qkv_bias),
            (self.o_proj, config.o_bias),
        ):
            if present:
                projection.bias = nn.Parameter(torch.zeros(projection.out_features))

    def forward(self, x_RM: Tensor, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        biases: list[Tensor] = [p.bias for p in projections if p.bias is not None]
        qkv_RX = linear(x_RM, *(p.weight for p in projections), bias=torch.cat(biases) if biases else None)
        q_RHE, k_RGE, v_RGE = qkv_RX.unflatten(1, (-1, self.head_dim)).split(self.sizes, dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q_RHE, k_RGE = self.q_norm(q_RHE), self.k_norm(k_RGE)
        out_RHE = attend(rotate(q_RHE, cos_RE, sin_RE), rotate(k_RGE, cos_RE, sin_RE), v_RGE)
        return linear(out_RHE.flatten(1), self.o_proj.weight, bias=self.o_proj.bias)


class Mlp(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        M, I = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj, self.down_proj = weight(I, M), weight(I, M), weight(M, I)
        for projection in (self.gate_proj, self.up_proj, self.down_proj):
            if config.mlp_bias:
                projection.bias = nn.Parameter(torch.zeros(projection.out_features))

    def forward(self, x_RM: Tensor) -> Tensor:
        gate_RI = linear(x_RM, self.gate_proj.weight, bias=self.gate_proj.bias)
        up_RI = linear(x_RM, self.up_proj.weight, bias=self.up_proj.bias)
        return linear(F.silu(gate_RI) * up_RI, self.down_proj.weight, bias=self.down_proj.bias)


class Layer(nn.Module):
    """One pre-norm layer; without `input_norm` attention reads the residual stream itself (EAGLE-1)."""

    def __init__(self, config: ModelConfig, input_norm: bool = True) -> None:
        super().__init__()
        M, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = Norm(M, eps) if input_norm else None
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(M, eps)
        self.mlp = Mlp(config)

    def forward(self, x_RM: Tensor, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        normed_RM = x_RM if self.input_layernorm is None else self.input_layernorm(x_RM)
        x_RM = x_RM + self.self_attn(normed_RM, cos_RE, sin_RE, attend)
        return x_RM + self.mlp(self.post_attention_layernorm(x_RM))


class JoinedLayer(nn.Module):
    """EAGLE-3's first layer: attention reads [normed embedding ; normed row]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        M, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm, self.hidden_norm = Norm(M, eps), Norm(M, eps)
        self.self_attn = Attention(config, 2 * M)
        self.post_attention_layernorm = Norm(M, eps)
        self.mlp = Mlp(config)

    def forward(self, x_RM: Tensor, embedded_RM: Tensor, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        joined_RW = torch.cat([self.input_layernorm(embedded_RM), self.hidden_norm(x_RM)], dim=1)
        x_RM = x_RM + self.self_attn(joined_RW, cos_RE, sin_RE, attend)
        return x_RM + self.mlp(self.post_attention_layernorm(x_RM))


class Rotary:
    """cos and sin of rows, from the tables inference reads."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._rope = Rope(config.rope, config.head_dim, device)

    def __call__(self, positions_R: Tensor, longest: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[R, E/2] each; `longest` bounds the positions."""
        self._rope.reserve(longest)
        return self._rope.cos_SE[positions_R].to(dtype), self._rope.sin_SE[positions_R].to(dtype)


def rotate(x_RHE: Tensor, cos_RE: Tensor, sin_RE: Tensor) -> Tensor:
    """Rotate-half RoPE of all heads of a row."""
    out: Tensor = _Rotate.apply(x_RHE, cos_RE[:, None], sin_RE[:, None])
    return out


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation back: nothing but the tables is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    left, right = out.chunk(2, dim=-1)
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=right).addcmul_(a, sin)
    return out
