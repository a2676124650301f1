"""Attention over grouped rows: the rule as an explicit mask, and the fast ways on CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .groups import Layout, sees

CHUNK = 256  # anchors whose rows share one call: beyond its last anchor no key is touched


class Attend(Protocol):
    """(q_RHE, k_RGE, v_RGE) -> [R, H, E]; H is a multiple of G."""

    def __call__(self, q_RHE: Tensor, k_RGE: Tensor, v_RGE: Tensor) -> Tensor: ...


class MaskedAttention:
    """The reference: one softmax over all rows under the explicit mask. For tests; memory grows with R * R."""

    def __init__(self, layout: Layout) -> None:
        self.mask_RR = sees(layout.rows[:, None], layout.rows[None, :])

    def __call__(self, q_RHE: Tensor, k_RGE: Tensor, v_RGE: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q_RHE, k_RGE, v_RGE))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask_RR, enable_gqa=True)
        return out[0].transpose(0, 1)


@dataclass(frozen=True)
class _Chunk:
    """Some neighbouring real rows of a text with the masks behind them, and the real rows they may see."""

    reals: slice
    masks: slice
    keys: slice  # the text's real rows up to the chunk's last
    bias_QS: Tensor  # 0 or -inf; the rows once per query head of a group

    def take(self, x_R: Tensor) -> Tensor:
        """Its rows."""
        return torch.cat([x_R[self.reals], x_R[self.masks]])

    def put(self, x_R: Tensor, values: Tensor) -> None:
        """Write its rows."""
        x_R[self.reals], x_R[self.masks] = values.tensor_split([self.reals.stop - self.reals.start])


class PackedAttention:
    """The fast way on a CPU, in two parts merged by their log-sum-exps.

    Every row attends to the real rows of its text (flash attention, chunk by chunk of anchors), and a mask row to the
    few masks of its own group that it sees, one offset at a time: offset o is the mask o rows before it.
    """

    def __init__(self, layout: Layout, heads_per_group: int, dtype: torch.dtype) -> None:
        self.reals = layout.reals
        self.chunks = list(_chunks(layout, heads_per_group, dtype))
        depth_R = layout.rows.depth
        self.offsets = range(int(depth_R.max()))
        self._rows = [(depth_R > offset).nonzero()[:, 0] for offset in self.offsets]

    def own(self, offset: int) -> tuple[Tensor | slice, Tensor | slice]:
        """The rows that see a mask `offset` rows before them, and these masks."""
        if offset == 0:
            masks = slice(self.reals, None)  # every mask sees itself
            return masks, masks
        return self._rows[offset], self._rows[offset] - offset

    def __call__(self, q_RHE: Tensor, k_RGE: Tensor, v_RGE: Tensor) -> Tensor:
        out: Tensor = _Packed.apply(q_RHE, k_RGE, v_RGE, self)
        return out


def _chunks(layout: Layout, heads_per_group: int, dtype: torch.dtype) -> Iterator[_Chunk]:
    rows, first_mask = layout.rows, layout.first_mask_T
    for text in layout.texts:
        for start in range(text.start, text.stop, CHUNK):
            end = min(start + CHUNK, text.stop)
            reals, masks, keys = slice(start, end), slice(first_mask[start], first_mask[end]), slice(text.start, end)
            index = torch.cat([torch.arange(start, end), torch.arange(masks.start, masks.stop)])
            seen = sees(rows[index][:, None], rows[keys][None, :])
            bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
            yield _Chunk(reals, masks, keys, bias.repeat(heads_per_group, 1))


class _Packed(torch.autograd.Function):
    """PackedAttention with its gradient.

    Backward of each part needs only the merged output and log-sum-exp: P = exp(score - lse), dS = P * (dO.V - dO.O).
    """

    @staticmethod
    def forward(ctx: Any, q_RHE: Tensor, k_RGE: Tensor, v_RGE: Tensor, plan: PackedAttention) -> Tensor:
        (R, H, E), G = q_RHE.shape, k_RGE.shape[1]
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        k_GTE, v_GTE = (x[: plan.reals].transpose(0, 1).contiguous() for x in (k_RGE, v_RGE))
        out_RHE = torch.empty_like(q_RHE)
        lse_RH = torch.empty(R, H)
        for chunk in plan.chunks:
            keys = chunk.keys
            out, lse = flash(
                _fold(chunk.take(q_RHE), G), k_GTE[None, :, keys], v_GTE[None, :, keys], attn_mask=chunk.bias_QS
            )
            chunk.put(out_RHE, _unfold(out, H))
            chunk.put(lse_RH, lse.reshape(H, -1).T)
        scores = []
        for offset in plan.offsets:
            rows, own = plan.own(offset)
            score, old = _dots(q_RHE[rows], k_RGE[own]) * E**-0.5, lse_RH[rows]
            new = torch.logaddexp(old, score)
            out_RHE[rows] = _times((old - new).exp(), out_RHE[rows]) + _spread((score - new).exp(), v_RGE[own])
            lse_RH[rows] = new
            scores.append(score)
        ctx.plan = plan
        ctx.save_for_backward(q_RHE, k_RGE, v_RGE, out_RHE, lse_RH, k_GTE, v_GTE, *scores)
        return out_RHE

    @staticmethod
    def backward(ctx: Any, grad_RHE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        plan: PackedAttention = ctx.plan
        q_RHE, k_RGE, v_RGE, out_RHE, lse_RH, k_GTE, v_GTE, *scores = ctx.saved_tensors
        (_, H, E), G = q_RHE.shape, k_RGE.shape[1]
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grad_RHE = grad_RHE.contiguous()
        dq_RHE = torch.empty_like(q_RHE)
        dk_GTE, dv_GTE = torch.zeros_like(k_GTE), torch.zeros_like(v_GTE)
        for chunk in plan.chunks:
            keys = chunk.keys
            grad, q, out = (_fold(chunk.take(x), G) for x in (grad_RHE, q_RHE, out_RHE))
            lse = chunk.take(lse_RH).T.reshape(1, G, -1)
            dq, dk, dv = flash(
                grad, q, k_GTE[None, :, keys], v_GTE[None, :, keys], out, lse, 0.0, False, attn_mask=chunk.bias_QS
            )
            chunk.put(dq_RHE, _unfold(dq, H))
            dk_GTE[:, keys] += dk[0]
            dv_GTE[:, keys] += dv[0]
        dk_RGE, dv_RGE = torch.zeros_like(k_RGE), torch.zeros_like(v_RGE)
        dk_RGE[: plan.reals], dv_RGE[: plan.reals] = dk_GTE.transpose(0, 1), dv_GTE.transpose(0, 1)
        for offset, score in zip(plan.offsets, scores, strict=True):
            rows, own = plan.own(offset)
            q, grad = q_RHE[rows], grad_RHE[rows]
            weight = (score - lse_RH[rows]).exp()
            inner = _dots(grad, v_RGE[own]) - (grad * out_RHE[rows]).sum(-1, dtype=torch.float32)
            dscore = weight * inner * E**-0.5
            dq_RHE[rows] += _spread(dscore, k_RGE[own])
            dk_RGE[own] += _gather(dscore, q, G)  # no key is named twice
            dv_RGE[own] += _gather(weight, grad, G)
        return dq_RHE, dk_RGE, dv_RGE, None


def _fold(x_QHE: Tensor, G: int) -> Tensor:
    """[1, G, (H/G)*Q, E]: the queries that share a key head as rows of one matrix."""
    Q, H, E = x_QHE.shape
    return x_QHE.transpose(0, 1).reshape(1, G, H // G * Q, E)


def _unfold(x_1GQE: Tensor, H: int) -> Tensor:
    E = x_1GQE.shape[-1]
    return x_1GQE.reshape(H, -1, E).transpose(0, 1)


def _dots(x_QHE: Tensor, y_QGE: Tensor) -> Tensor:
    """[Q, H] fp32 products of each query head with its key head."""
    G = y_QGE.shape[1]
    return (x_QHE.unflatten(1, (G, -1)) * y_QGE[:, :, None]).sum(-1, dtype=torch.float32).flatten(1)


def _times(weight_QH: Tensor, x_QHE: Tensor) -> Tensor:
    return weight_QH.to(x_QHE.dtype)[..., None] * x_QHE


def _spread(weight_QH: Tensor, y_QGE: Tensor) -> Tensor:
    """[Q, H, E]: a key head to its query heads, weighted."""
    return _times(weight_QH.unflatten(1, (y_QGE.shape[1], -1)), y_QGE[:, :, None]).flatten(1, 2)


def _gather(weight_QH: Tensor, x_QHE: Tensor, G: int) -> Tensor:
    """[Q, G, E]: the query heads of a key head, weighted and summed."""
    return _times(weight_QH, x_QHE).unflatten(1, (G, -1)).sum(2)


class FlexGroups:
    """The fast way on a GPU: FlexAttention with a block mask of the rule.

    Real rows in one piece make whole blocks of keys seen or unseen; a group's masks are near the diagonal.
    """

    def __init__(self, layout: Layout, compiled: bool = True) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        rows = layout.rows

        def rule(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return sees(rows[query], rows[key])

        R = len(rows.depth)
        self.block_mask = create_block_mask(rule, None, None, R, R, device=str(rows.depth.device))
        self._attend = _flex(compiled)

    def __call__(self, q_RHE: Tensor, k_RGE: Tensor, v_RGE: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q_RHE, k_RGE, v_RGE))
        out: Tensor = self._attend(q, k, v, block_mask=self.block_mask, enable_gqa=True)
        return out[0].transpose(0, 1)


@cache
def _flex(compiled: bool) -> Any:
    """FlexAttention; compiled once for all lengths."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


def attention(layout: Layout, heads_per_group: int, dtype: torch.dtype) -> Attend:
    """The fast way for the device a layout is on."""
    if layout.anchor_J.device.type == "cuda":
        return FlexGroups(layout)
    return PackedAttention(layout, heads_per_group, dtype)
