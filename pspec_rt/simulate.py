"""Simulated acceptance: times of rounds whose drafts nobody could accept, e.g. of models with random weights."""

from __future__ import annotations

import math

import torch

from . import ops
from .errors import ConfigError
from .state import DecodeState


class SimulatedAcceptance:
    """Overwrites `target_BN`: with probability p the token of a node's first child, else one that no child has.

    Given that its parent is accepted, a drafted first child is accepted with that probability, constant over depths.
    Position t is decided by the noise of (seed, t), so it depends neither on the tree nor on the round. Capture-safe.
    What comes out is not the model's text.
    """

    def __init__(self, state: DecodeState, p: float) -> None:
        check_simulation(p, drafts=state.shape.N > 1)
        P, N, device = state.shape.P, state.shape.N, state.device
        self.least = -math.log(-math.log1p(-p))  # a standard Gumbel number exceeds it with probability p
        self.noise_BP1 = torch.empty(state.shape.B, P, 1, device=device)
        self.node_N = torch.arange(N, device=device)

    def __call__(self, s: DecodeState) -> None:
        N = s.shape.N
        ops.gumbel_noise(s.seed_B, s.length_B, self.noise_BP1)
        lucky_BN = (self.noise_BP1[..., 0] > self.least).gather(1, s.depth_BN.clamp(max=s.shape.P - 1).long())
        is_child_BNN = s.parent_BN[:, None, :] == self.node_N[:, None]  # of node n (rows)
        first_BN = torch.where(is_child_BNN, self.node_N, N).amin(dim=2)
        drafted_BN = s.ids_BN.gather(1, first_BN.clamp(max=N - 1))
        child_ids_BNN = torch.where(is_child_BNN, s.ids_BN[:, None, :], -1)
        clash_BN = (child_ids_BNN == s.target_BN[:, :, None]).any(dim=2)
        other_BN = torch.where(clash_BN, (child_ids_BNN.amax(dim=2) + 1) % s.shape.V, s.target_BN)
        accepted_BN = lucky_BN & (first_BN < N) & (drafted_BN >= 0)
        s.target_BN.copy_(torch.where(accepted_BN, drafted_BN, other_BN))


def check_simulation(p: float, drafts: bool) -> None:
    """Raise ConfigError unless p can be the probability of a draft, and there are drafts."""
    if not 0 < p < 1:
        raise ConfigError(f"simulate_acceptance={p}: expected a probability between 0 and 1, both excluded")
    if not drafts:
        raise ConfigError("simulate_acceptance needs a drafter: plain decoding drafts nothing")
