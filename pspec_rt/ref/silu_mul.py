"""silu_mul in plain PyTorch: the gated activation of the MLP."""

from __future__ import annotations

import torch
from torch import Tensor


def silu_mul(gate_up_R2I: Tensor, out_RI: Tensor) -> None:
    """out = silu(gate) * up; see `pspec_rt.ops.silu_mul`.

    Not F.silu: its scalar loop over the last few elements of a thread's share rounds exp
    differently from its vector loop, so a row's bits would depend on where it lies. torch.exp is
    one routine for all elements.
    """
    gate_RI, up_RI = gate_up_R2I.float().chunk(2, dim=-1)
    denominator_RI = gate_RI.neg().exp_().add_(1)  # silu(g) = g / (1 + exp(-g))
    torch.div(gate_RI, denominator_RI, out=denominator_RI)
    torch.mul(denominator_RI, up_RI, out=denominator_RI)
    out_RI.copy_(denominator_RI)
