"""Drafter families as trainable modules; their parameters carry the names of the checkpoints `load_drafter` reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..drafters.base import Drafter
from ..drafters.checkpoint import save_drafter
from ..drafters.feature import FeatureDrafter
from ..drafters.lm import LMDrafter, ParallelLMDrafter
from ..errors import ConfigError
from ..models.config import ModelConfig
from ..models.target import Target
from ..quantize import Int8Weight, Weight
from .attention import Attend, attention
from .batch import Batch, RowRule
from .errors import TrainError
from .losses import goal, head_loss
from .modules import Layer, Norm, Rotary, linear, weight


class Trainee(nn.Module):
    """A drafter that learns. Parameters are fp32; rows run in `dtype`.

    Attributes:
        rule: which rows it has (without dropping).
        taps: hidden states of the target it reads.
        draft_ids_D: token id of every row of its head; None: all of the vocabulary.
    """

    rule: RowRule
    taps: tuple[int, ...]
    draft_ids_D: Tensor | None = None
    draft_row_V: Tensor | None = None

    def __init__(self, drafter: Drafter, layers: ModelConfig, target: Target, dtype: torch.dtype) -> None:
        super().__init__()
        self.drafter, self.dtype, self.device = drafter, dtype, target.device
        self._groups = layers.num_heads // layers.num_kv_heads
        self._rotary = Rotary(layers, target.device)

    @abstractmethod
    def inputs(self, batch: Batch) -> Tensor:
        """[R, M] what enters the layers."""

    @abstractmethod
    def run(self, x_RM: Tensor, batch: Batch, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        """[R, M] rows after the layers and the final norm, ready for the head."""

    @abstractmethod
    def head(self) -> Tensor:
        """[D, M]; requires grad if it is trained."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The checkpoint's tensors by name, but for d2t."""

    def hidden(self, batch: Batch, attend: Attend | None = None) -> Tensor:
        """[R, M] rows ready for the head, through the fast attention of the device unless another is given."""
        attend = attend or attention(batch.layout, self._groups, self.dtype)
        cos_RE, sin_RE = self._rotary(batch.layout.positions_R, batch.longest, self.dtype)
        return self.run(self.inputs(batch), batch, cos_RE, sin_RE, attend)

    def forward(self, batch: Batch, depth_weights: Sequence[float], hard: float) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of the weighted losses, sum of the weights, [K, 2] sums of losses and counts per depth)."""
        learning = (batch.labels_R >= 0).nonzero()[:, 0]
        hidden_RM = self.hidden(batch)[learning]
        aim = goal(
            batch.labels_R[learning],
            batch.top_ids_RC[learning],
            batch.top_logprobs_RC[learning],
            self.draft_row_V,
            hard,
        )
        depth_R = batch.layout.rows.depth[learning]
        weight_R = torch.tensor(depth_weights, device=self.device)[depth_R]
        loss, loss_R = head_loss(hidden_RM, self.head(), aim, weight_R)
        parts_KL = torch.zeros(len(depth_weights), 2, device=self.device)
        parts_KL.index_add_(0, depth_R, torch.stack([loss_R, torch.ones_like(loss_R)], dim=1))
        return loss + self.more_loss(batch, hidden_RM), weight_R.sum(), parts_KL

    def more_loss(self, batch: Batch, hidden_RM: Tensor) -> Tensor | float:
        """What a family learns besides, summed over the rows that learn (`hidden_RM`)."""
        return 0.0

    def save(self, folder: Path) -> Path:
        """Write it as a checkpoint that `load_drafter` reads."""
        saved = self.drafter.checkpoint()
        assert saved is not None, "what is trained has weights"
        own = self.tensors()
        for name, view in saved[1].items():
            if name in own:
                view.copy_(own[name])
        return save_drafter(self.drafter, folder)

    def _set_vocab(self, draft_ids_D: Tensor | None, vocab_size: int) -> None:
        if draft_ids_D is None:
            return
        self.draft_ids_D = draft_ids_D.long()
        self.draft_row_V = torch.full((vocab_size,), -1, dtype=torch.int64, device=self.device)
        self.draft_row_V[self.draft_ids_D] = torch.arange(len(draft_ids_D), device=self.device)


class FeatureTrainee(Trainee):
    """ParallelSpec-EAGLE, ParallelSpec-Medusa: rows project the target's features and, in the first, tokens.

    What is learnt are matrices for inputs divided by `scale_W` (their rms per channel), so that channels with huge
    values do not rule the step. The division is folded into the matrices, here as in checkpoints.
    """

    drafter: FeatureDrafter
    scale_W: Tensor
    layers: Any  # nn.ModuleList of Layer
    res_blocks: Any

    def __init__(self, drafter: FeatureDrafter, target: Target, dtype: torch.dtype) -> None:
        config = drafter.config
        super().__init__(drafter, config.layers, target, dtype)
        tensors = drafter.checkpoint()[1]
        M, J = config.layers.hidden_size, len(tensors.get("mask_embedding.weight", ()))
        E, W = config.embedding_width, config.embedding_width + config.feature_width
        self.taps, self.rule = drafter.taps, RowRule(lead=2, masks=J)
        self.register_buffer("scale_W", torch.ones(W))
        self.fc = weight(M, W)
        if "fc.bias" in tensors:
            self.fc.bias = nn.Parameter(torch.zeros(M))
        self.mask_embedding = nn.Embedding(J, config.mask_width) if J else None
        self.mask_feature = nn.Parameter(torch.zeros(W - E)) if "mask_feature" in tensors else None
        self.anchor_map = weight(M, W) if "anchor_map.weight" in tensors and J else None
        self.layers = nn.ModuleList(
            Layer(config.layers, f"layers.{index}.input_layernorm.weight" in tensors)
            for index in range(config.layers.num_layers)
        )
        self.norm = Norm(M, config.layers.rms_norm_eps) if "norm.weight" in tensors else None
        blocks = sum(name.startswith("res_blocks.") and name.endswith("linear.weight") for name in tensors)
        bias = "res_blocks.0.linear.bias" in tensors
        self.res_blocks = nn.ModuleList(nn.ModuleDict({"linear": nn.Linear(M, M, bias=bias)}) for _ in range(blocks))
        own_head = "lm_head.weight" in tensors
        self.lm_head = weight(*drafter.head_DM.shape) if own_head else None
        self._frozen_head_DM = None if own_head else as_tensor(drafter.head_DM).to(dtype)
        self.embed_tokens = weight(target.config.vocab_size, E) if "embed_tokens.weight" in tensors else None
        self._table_VE = None if drafter.table_VE is None else as_tensor(drafter.table_VE).to(dtype)
        self._set_vocab(drafter.id_map_D, target.config.vocab_size)
        self.load_state_dict({n: t.float() for n, t in tensors.items() if n in self.state_dict()}, strict=False)
        self.to(target.device)

    def joined(self, batch: Batch) -> Tensor:
        """[T, W] inputs of the real rows, not divided."""
        parts = [batch.features_TF.to(self.dtype)]
        if self._table_VE is not None:
            table = self._table_VE if self.embed_tokens is None else self.embed_tokens.weight.to(self.dtype)
            parts.insert(0, F.embedding(batch.next_ids_T, table))
        return torch.cat(parts, dim=1)

    def inputs(self, batch: Batch) -> Tensor:
        joined_TW = self.joined(batch)
        x_TM = linear(joined_TW, self.fc.weight / self.scale_W, bias=self.fc.bias)
        if self.mask_embedding is None:
            return x_TM
        layout = batch.layout
        masks_JM = self.mask_inputs()[layout.rows.depth[layout.reals :] - 1]
        if self.anchor_map is not None:
            anchors_TM = linear(joined_TW, self.anchor_map.weight / self.scale_W)
            masks_JM = masks_JM + anchors_TM.index_select(0, layout.anchor_J)
        return torch.cat([x_TM, masks_JM])

    def mask_inputs(self) -> Tensor:
        """[K-1, M] what enters the layers at mask rows of each depth, but for the anchor's part."""
        assert self.mask_embedding is not None
        masks = self.mask_embedding.weight
        if self.mask_feature is not None:
            joined = torch.cat([masks, self.mask_feature.expand(len(masks), -1)], dim=1)
            masks = F.linear(joined, self.fc.weight, self.fc.bias)
        return masks.to(self.dtype)

    def run(self, x_RM: Tensor, batch: Batch, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        for layer in self.layers:
            x_RM = layer(x_RM, cos_RE, sin_RE, attend)
        normed_RM: Tensor = x_RM if self.norm is None else self.norm(x_RM)
        return after_blocks(normed_RM, batch.layout.rows.depth, [block["linear"] for block in self.res_blocks])

    def head(self) -> Tensor:
        if self.lm_head is not None:
            return self.lm_head.weight
        assert self._frozen_head_DM is not None
        return self._frozen_head_DM

    def tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = dict(self.state_dict())
        scale_W = tensors.pop("scale_W")
        for name in ("fc.weight", "anchor_map.weight"):
            if name in tensors:
                tensors[name] = tensors[name] / scale_W
        if self.mask_feature is not None:
            E = len(scale_W) - len(self.mask_feature)
            tensors["mask_embedding.weight"] = tensors["mask_embedding.weight"] * scale_W[:E]
            tensors["mask_feature"] = tensors["mask_feature"] * scale_W[E:]
        return tensors

    def rescale(self, scale_W: Tensor) -> None:
        """Divide inputs by `scale_W` from now on; what the drafter computes stays the same."""
        ratio_W = scale_W.to(self.device) / self.scale_W
        with torch.no_grad():
            for matrix in filter(None, (self.fc, self.anchor_map)):
                matrix.weight.mul_(ratio_W)
            if self.mask_feature is not None and self.mask_embedding is not None:
                E = len(scale_W) - len(self.mask_feature)
                self.mask_embedding.weight.div_(ratio_W[:E])
                self.mask_feature.div_(ratio_W[E:])
            self.scale_W.copy_(scale_W)


def after_blocks(x_RM: Tensor, depth_R: Tensor, blocks: Sequence[nn.Linear]) -> Tensor:
    """Each row through the residual block of its depth, x + silu(W x + b); as it is if there are none."""
    if not blocks:
        return x_RM
    order_R = torch.cat([(depth_R == depth).nonzero()[:, 0] for depth in range(len(blocks))])
    counts = torch.bincount(depth_R, minlength=len(blocks)).tolist()
    parts = []
    for part_RM, block in zip(x_RM[order_R].split(counts), blocks, strict=True):
        parts.append(part_RM + F.silu(linear(part_RM, block.weight, bias=block.bias)))
    return torch.cat(parts)[torch.argsort(order_R)]


def check_float(target: Target) -> None:
    """Raise ConfigError for an int8 target: drafters run over whole texts beside float weights only."""
    if any(isinstance(weight, Int8Weight) for weight in (target.decoder.embed_VM, target.decoder.head_VM)):
        raise ConfigError("drafters learn from a target in bf16 or fp32: load it so; the drafter serves int8 as well")


def as_tensor(weight: Weight) -> Tensor:
    """A weight that is not int8."""
    assert isinstance(weight, Tensor), "int8 targets are refused before"
    return weight


class LMTrainee(Trainee):
    """PARD (masks share one token) or a plain draft LM (no masks): a small causal LM that is adapted."""

    taps = ()
    model: Any  # nn.ModuleDict

    def __init__(self, drafter: LMDrafter, target: Target, dtype: torch.dtype) -> None:
        config = drafter.model.config
        if any(config.windows):
            raise TrainError(
                f"{drafter.model.name}: sliding-window attention cannot be trained here, only full attention"
            )
        super().__init__(drafter, config, target, dtype)
        masks = drafter.default_k - 1 if isinstance(drafter, ParallelLMDrafter) else 0
        self.rule = RowRule(lead=1, masks=masks)
        self.mask_id = drafter.mask_id if isinstance(drafter, ParallelLMDrafter) else 0
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.utils.skip_init(nn.Embedding, config.vocab_size, config.hidden_size),
                "layers": nn.ModuleList(Layer(config) for _ in range(config.num_layers)),
                "norm": Norm(config.hidden_size, config.rms_norm_eps),
            }
        )
        self.lm_head = None if config.tie_word_embeddings else weight(config.vocab_size, config.hidden_size)
        self.load_state_dict({name: tensor.float() for name, tensor in drafter.checkpoint()[1].items()})
        self.to(target.device)

    def inputs(self, batch: Batch) -> Tensor:
        layout = batch.layout
        ids_R = torch.cat([batch.ids_T, torch.full_like(layout.anchor_J, self.mask_id)])
        return F.embedding(ids_R, self.model["embed_tokens"].weight).to(self.dtype)

    def run(self, x_RM: Tensor, batch: Batch, cos_RE: Tensor, sin_RE: Tensor, attend: Attend) -> Tensor:
        for layer in self.model["layers"]:
            x_RM = layer(x_RM, cos_RE, sin_RE, attend)
        normed_RM: Tensor = self.model["norm"](x_RM)
        return normed_RM

    def head(self) -> Tensor:
        weights: Any = self.model["embed_tokens"] if self.lm_head is None else self.lm_head
        return weights.weight

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.state_dict())
