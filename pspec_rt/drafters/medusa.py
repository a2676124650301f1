"""ParallelSpec-Medusa: rows are a projection of the target's features alone, masks are learned inputs."""

from __future__ import annotations

from torch import Tensor

from ..models.target import Target
from .feature import FeatureDrafter


class MedusaDrafter(FeatureDrafter):
    """ParallelSpec in Medusa's place (arXiv 2410.05589, 2401.10774).

    The row of position t is fc(features t) and predicts token t+2 without having seen token t+1. An optional residual
    block per depth stands before the head, as in Medusa's heads; trees are Medusa's by default.
    """

    def token_table(self, target: Target) -> None:
        return None

    def mask_inputs(self) -> Tensor:
        return self.weights.mask_embedding_JE
