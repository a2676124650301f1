"""How far two distributions over the next token lie apart, summed over many places of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Tally:
    """Sums over places, a place being a token of an answer at some depth; covered ones have a token in the draft
    vocabulary."""

    vocab: int
    places: int = 0
    covered: int = 0
    agreed: int = 0
    kl: float = 0.0
    coverage: float = 0.0
    log_q: float = 0.0  # of covered tokens: under the drafter,
    log_p: float = 0.0  # and under the target restricted to the draft vocabulary
    log_p_all: float = 0.0  # of all tokens under the whole target
    wrote_V: Tensor = field(init=False)
    drafter_V: Tensor = field(init=False)
    target_V: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.wrote_V, self.drafter_V, self.target_V = (torch.zeros(self.vocab) for _ in range(3))

    def add(self, other: Tally) -> None:
        """Add the places of another one of the same vocabulary."""
        for name, value in vars(other).items():
            if name != "vocab":
                setattr(self, name, getattr(self, name) + value)

    def figures(self) -> dict[str, Any]:
        """Means over places; None where there is no place to take one over."""
        n, c = self.places, self.covered
        means: dict[str, Any] = {
            "kl": (self.kl, n),
            "coverage": (self.coverage, n),
            "covered_tokens": (c, n),
            "top1_agreement": (self.agreed, n),
            "frequency_distance": (_apart(self.wrote_V, self.drafter_V), n),
            "frequency_distance_target": (_apart(self.wrote_V, self.target_V), n),
        }
        sums = {"perplexity": (self.log_q, c), "target_perplexity": (self.log_p, c)}
        sums["target_perplexity_all"] = (self.log_p_all, n)
        figures = {name: total / count if count else None for name, (total, count) in means.items()}
        return {"places": n} | figures | {name: _perplexity(*sums[name]) for name in sums}


def _perplexity(log_p: float, count: int) -> float | None:
    """None without places, or where it is too large for a number."""
    return math.exp(-log_p / count) if count and -log_p / count < 700 else None


def _apart(a_V: Tensor, b_V: Tensor) -> float:
    """Total variation between two counts of as many tokens, times that number."""
    return float((a_V - b_V).abs().sum()) / 2


def compare(target_AV: Tensor, drafter_AD: Tensor, tokens_A: Tensor, ids_D: Tensor | None, temperature: float) -> Tally:
    """The figures of A places.

    Args:
        target_AV, drafter_AD: logits, fp32.
        tokens_A: what the target wrote.
        ids_D: token id of every column of the drafter, ascending; None: the whole vocabulary.
        temperature: of both softmaxes; 0: they are taken at 1, and what would be written are the best tokens.
    """
    A, V = target_AV.shape
    ids_D = torch.arange(V, device=tokens_A.device) if ids_D is None else ids_D
    at = temperature or 1.0
    log_p_AV = (target_AV / at).log_softmax(1)
    inside_AD = target_AV[:, ids_D] / at
    log_r_AD, log_q_AD = inside_AD.log_softmax(1), (drafter_AD / at).log_softmax(1)  # r: p restricted
    best_A, drafted_A = target_AV.argmax(1), ids_D[drafter_AD.argmax(1)]
    column_V = torch.full((V,), -1, device=ids_D.device)
    column_V[ids_D] = torch.arange(len(ids_D), device=ids_D.device)
    covered = (column_V[tokens_A] >= 0).nonzero()[:, 0]
    columns = column_V[tokens_A[covered]]

    tally = Tally(V, places=A, covered=len(covered), agreed=int((best_A == drafted_A).sum()))
    tally.kl = _sum((log_r_AD.exp() * (log_r_AD - log_q_AD)).sum(1).clamp(min=0))
    tally.coverage = _sum(log_p_AV[:, ids_D].logsumexp(1).exp().clamp(max=1))
    tally.log_q, tally.log_p = _sum(log_q_AD[covered, columns]), _sum(log_r_AD[covered, columns])
    tally.log_p_all = _sum(log_p_AV.gather(1, tokens_A[:, None]))
    tally.wrote_V = _counts(tokens_A, V)
    if temperature:
        tally.target_V = log_p_AV.exp().sum(0).cpu()
        tally.drafter_V[ids_D.cpu()] = log_q_AD.exp().sum(0).cpu()
    else:
        tally.target_V, tally.drafter_V = _counts(best_A, V), _counts(drafted_A, V)
    return tally


def _sum(x: Tensor) -> float:
    return float(x.double().sum())


def _counts(ids_A: Tensor, V: int) -> Tensor:
    return torch.bincount(ids_A.cpu(), minlength=V).float()
