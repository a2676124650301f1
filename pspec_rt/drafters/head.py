"""ParallelSpec-EAGLE: rows join the embedding of the next token with the target's features of the present one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.target import Target
from ..quantize import Weight
from .feature import FeatureDrafter, own_or_target_table


class HeadDrafter(FeatureDrafter):
    """ParallelSpec on EAGLE's inputs (arXiv 2410.05589, 2401.15077).

    The row of position t is fc([embed(token t+1) ; features t]) and predicts token t+2; mask j is
    fc([mask_embedding_j ; mask_feature]), j positions after the anchor, and predicts the token j after the anchor's.
    """

    def token_table(self, target: Target) -> Weight | None:
        return own_or_target_table(self.weights, target, self.dtype)

    def mask_inputs(self) -> Tensor:
        weights = self.weights
        J = weights.mask_embedding_JE.shape[0]
        if weights.mask_feature_F is None:  # k = 1: no masks
            return weights.fc_MW.new_empty(0, weights.fc_MW.shape[0])
        joined_JW = torch.cat([weights.mask_embedding_JE, weights.mask_feature_F.expand(J, -1)], dim=1)
        return F.linear(joined_JW, weights.fc_MW, weights.fc_bias_M)
