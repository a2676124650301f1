"""A loaded drafter as the module that runs it over whole texts by teacher forcing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..drafters.base import Drafter
from ..drafters.config import EAGLE, EAGLE1, LM, MEDUSA, MEDUSA_HEADS, PARD, PEAGLE
from ..drafters.lm import LMDrafter
from ..drafters.medusa_heads import MedusaHeadsDrafter
from ..errors import ConfigError
from ..models.target import Target
from .baselines import EagleTrainee, MedusaHeadsTrainee, ParallelEagleTrainee
from .families import FeatureTrainee, LMTrainee, Trainee, check_float

TRAINEES: dict[str, type[Trainee]] = {
    EAGLE: FeatureTrainee,
    MEDUSA: FeatureTrainee,
    EAGLE1: EagleTrainee,
    PEAGLE: ParallelEagleTrainee,
    MEDUSA_HEADS: MedusaHeadsTrainee,
    PARD: LMTrainee,
    LM: LMTrainee,
}


def trainee_of(drafter: Drafter, target: Target) -> Trainee:
    """The drafter's rows in its own dtype, with its weights; drafters that draft level by level have the first depth.

    Raises ConfigError for a kind that cannot be run so, Medusa heads that are not the target's, and int8 targets.
    """
    check_float(target)
    if drafter.kind not in TRAINEES:
        raise ConfigError(
            f"a {drafter.kind} drafter cannot be run over whole texts: these can be: {', '.join(TRAINEES)}"
        )
    if isinstance(drafter, MedusaHeadsDrafter):
        _check_heads(drafter, target)
        return MedusaHeadsTrainee(drafter, target, drafter.dtype, None).eval()
    own: Any = drafter.model if isinstance(drafter, LMDrafter) else drafter
    make: Any = TRAINEES[drafter.kind]
    trainee: Trainee = make(drafter, target, own.dtype)
    return trainee.eval()


def _check_heads(drafter: MedusaHeadsDrafter, target: Target) -> None:
    """Raise ConfigError unless every head is one block before the target's own head."""
    target_VM = target.decoder.head_VM
    assert isinstance(target_VM, Tensor), "checked before"
    same = all(
        len(head.blocks) == 1 and isinstance(w_VM, Tensor) and torch.equal(w_VM, target_VM.to(w_VM.dtype))
        for head, w_VM in zip(drafter.heads, drafter.head_VM, strict=True)
    )
    if not same:
        raise ConfigError(
            "Medusa heads can be run over whole texts if each is one residual block before the target's own output "
            "head, as `pspec-rt train --family medusa` makes them; these have heads of their own"
        )
