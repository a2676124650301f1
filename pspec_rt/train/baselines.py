"""The published drafters that ours are compared with, as trainable modules: EAGLE-1, P-EAGLE, Medusa heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..drafters.eagle import EagleDrafter, ParallelEagleDrafter
from ..drafters.medusa_heads import MedusaHeadsDrafter
from ..models.target import Target
from .attention import Attend
from .batch import Batch, RowRule
from .families import FeatureTrainee, Trainee, after_blocks, as_tensor
from .modules import JoinedLayer, Layer, Norm, linear, weight

STATE_WEIGHT = 10.0  # EAGLE-1 weighs the regression on the state ten times the loss on tokens
FEATURE_NOISE = 0.1  # and adds uniform noise to the features, as its own outputs stand there when it drafts


class EagleTrainee(FeatureTrainee):
    """EAGLE-1 (arXiv 2401.15077): one row per position learns the target's next token and its next final state.

    Its loss adds a smooth-L1 regression on the state, which stands for the features when it drafts further. The head
    holds rows of the target's and stays as it is.
    """

    def __init__(self, drafter: EagleDrafter, target: Target, dtype: torch.dtype) -> None:
        super().__init__(drafter, target, dtype)
        if self.lm_head is not None:
            self.lm_head.weight.requires_grad_(False)

    def joined(self, batch: Batch) -> Tensor:
        joined_TW = super().joined(batch)
        if not self.training or not torch.is_grad_enabled():
            return joined_TW
        F_ = batch.features_TF.shape[1]
        noise = (torch.rand(joined_TW[:, -F_:].shape, device=self.device) * 2 - 1) * FEATURE_NOISE
        joined_TW[:, -F_:] += (noise * self.scale_W[-F_:]).to(joined_TW.dtype)
        return joined_TW

    def more_loss(self, batch: Batch, hidden_RM: Tensor) -> Tensor:
        text_T = batch.layout.rows.text
        learning = (batch.labels_R >= 0).nonzero()[:, 0]
        after = (learning + 1).clamp(max=len(text_T) - 1)
        there_R = (text_T[after] == text_T[learning]) & (after > learning)
        error_RM = F.smooth_l1_loss(hidden_RM.float(), batch.features_TF[after].float(), reduction="none")
        return STATE_WEIGHT * (error_RM.mean(1) * there_R).sum()


class ParallelEagleTrainee(Trainee):
    """P-EAGLE (arXiv 2602.01469): EAGLE-3's rows; masks share one token and one learned vector of features."""

    drafter: ParallelEagleDrafter

    def __init__(self, drafter: ParallelEagleDrafter, target: Target, dtype: torch.dtype) -> None:
        config = drafter.config
        super().__init__(drafter, config.layers, target, dtype)
        M = config.layers.hidden_size
        tensors = drafter.checkpoint()[1]
        self.taps, self.rule, self.mask_id = drafter.taps, RowRule(lead=2, masks=config.k - 1), config.mask_id
        self.fc = weight(M, config.feature_width)
        self.mask_hidden = nn.Parameter(torch.zeros(config.feature_width))
        layers = [Layer(config.layers) for _ in range(config.layers.num_layers - 1)]
        self.layers = nn.ModuleList([JoinedLayer(config.layers), *layers])
        self.norm = Norm(M, config.layers.rms_norm_eps)
        self.lm_head = weight(*drafter.head_DM.shape)
        self._table_VM = as_tensor(drafter.embed_VM).to(dtype)
        self._set_vocab(drafter.id_map_D, target.config.vocab_size)
        self.load_state_dict({name: tensor.float() for name, tensor in tensors.items() if name != "d2t"})
        self.to(target.device)

    def inputs(self, batch: Batch) -> Tensor:
        masks = len(batch.layout.anchor_J)
        x_TM = linear(batch.features_TF.to(self.dtype), self.fc.weight)
        mask_1M = F.linear(self.mask_hidden[None], self.fc.weight).to(self.dtype)
        return torch.cat([x_TM, mask_1M.expand(masks, -1)])

    def run(self, x_RM: Tensor, batch: Batch, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        ids_R = torch.cat([batch.next_ids_T, torch.full_like(batch.layout.anchor_J, self.mask_id)])
        first, *others = self.layers
        x_RM = first(x_RM, F.embedding(ids_R, self._table_VM), cos_RE, sin_RE, attend)
        for layer in others:
            x_RM = layer(x_RM, cos_RE, sin_RE, attend)
        normed_RM: Tensor = self.norm(x_RM)
        return normed_RM

    def head(self) -> Tensor:
        return self.lm_head.weight

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.state_dict())


class MedusaHeadsTrainee(Trainee):
    """Medusa (arXiv 2401.10774): one residual block per depth on the target's last state, before the target's head.

    The blocks learn; every head keeps the target's rows, with which Medusa's start. In training the softmax is taken
    over the draft vocabulary.
    """

    taps = (-1,)
    blocks: Any  # nn.ModuleList of nn.Linear

    def __init__(
        self, drafter: MedusaHeadsDrafter, target: Target, dtype: torch.dtype, draft_ids_D: Tensor | None
    ) -> None:
        super().__init__(drafter, target.config, target, dtype)
        M, K = target.config.hidden_size, len(drafter.heads)
        self.rule = RowRule(lead=2, masks=K - 1)
        self.blocks = nn.ModuleList(weight(M, M) for _ in range(K))
        for block, head in zip(self.blocks, drafter.heads, strict=True):
            (own,) = head.blocks
            assert own.b_M is not None, "Medusa's blocks have a bias"
            block.weight = nn.Parameter(as_tensor(own.w_MM).float().clone())
            block.bias = nn.Parameter(own.b_M.float().clone())
        head_VM = as_tensor(target.decoder.head_VM)
        self._set_vocab(draft_ids_D, target.config.vocab_size)
        self._head_DM = (head_VM if draft_ids_D is None else head_VM[self.draft_ids_D]).to(dtype)
        self.to(target.device)

    def inputs(self, batch: Batch) -> Tensor:
        features_TM = batch.features_TF.to(self.dtype)
        return torch.cat([features_TM, features_TM[batch.layout.anchor_J]])

    def run(self, x_RM: Tensor, batch: Batch, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        return after_blocks(x_RM, batch.layout.rows.depth, list(self.blocks))

    def head(self) -> Tensor:
        return self._head_DM

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{depth}.0.linear.{name}": t for depth, b in enumerate(self.blocks) for name, t in b.state_dict().items()
        }
