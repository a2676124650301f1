"""The optimiser of a run: Muon for the matrices inside layers, AdamW for everything else, driven as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

INPUT_MATRICES = ("fc.", "anchor_map.")  # they read the target's features: a high rate undoes a fitted start
INNER = (".self_attn.", ".mlp.", "blocks.")


class Optimizer:
    """Optimisers of disjoint parameters, each parameter with its part of the learning rate.

    Muon (Jordan 2024; update scaled as in arXiv 2502.16982, so one learning rate fits both) orthogonalises the update
    of a matrix; inputs, embeddings, heads, norms and biases are AdamW's. Norms, biases and embeddings do not decay.

    Args:
        lr: peak rate, input_lr: its factor for INPUT_MATRICES, muon: its factor for Muon's matrices; 0: all AdamW.
    """

    def __init__(self, module: nn.Module, lr: float, input_lr: float, muon: float, weight_decay: float) -> None:
        self.lr = lr
        adamw: dict[tuple[float, float], list[nn.Parameter]] = {}
        inner: list[nn.Parameter] = []
        for name, parameter in module.named_parameters():
            if muon and parameter.dim() == 2 and any(part in name for part in INNER):
                inner.append(parameter)
                continue
            decay = weight_decay if parameter.dim() == 2 and "embed" not in name else 0.0
            rate = input_lr if name.startswith(INPUT_MATRICES) else 1.0
            adamw.setdefault((rate, decay), []).append(parameter)
        groups = [{"params": p, "weight_decay": decay, "rate": rate} for (rate, decay), p in adamw.items()]
        self.parts: list[torch.optim.Optimizer] = []
        if groups:
            self.parts.append(torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True))
        if inner:
            group = {"params": inner, "weight_decay": weight_decay, "rate": muon}
            self.parts.append(torch.optim.Muon([group], adjust_lr_fn="match_rms_adamw"))

    def step(self, factor: float) -> None:
        """Update the parameters at `factor` of every rate, and forget the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * group["rate"] * factor
            part.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from them, at this optimiser's own rates; raises ValueError if they are of other parameters."""
        for part, state in zip(self.parts, states, strict=True):
            own = [{name: group[name] for name in ("rate", "weight_decay")} for group in part.param_groups]
            part.load_state_dict(state)
            for group, values in zip(part.param_groups, own, strict=True):
                group.update(values)
