"""Starting weights of a feature drafter: a closed-form fit to the target's final states, and layers of the target."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..models.target import Target
from .batch import Batch, RowRule, collate
from .families import FeatureTrainee
from .features import Seen

log = logging.getLogger("pspec_rt")

RIDGE_TOKENS = 60_000
RIDGE = 3e-3  # of a channel's mean square, which scaling makes 1
BRANCH = 0.1  # what layers add starts small beside the fitted inputs


def fit(trainee: FeatureTrainee, target: Target, texts: Sequence[tuple[Seen, int]], ridge: float = RIDGE) -> float:
    """Set inputs and norm so that rows of every depth start from the best linear guess of the target's final state.

    Ridge regression of the joined, scaled inputs at t on the final state at t+1+d, before the norm's weight: fc is the
    map of depth 0; anchor_map the mean map of the others and each mask input what is left of its depth's, as far as the
    drafter has them. The target must be tapped at its last state. Layers start with a tenth of their output.

    Returns the share of the final state's variance that fc explains.

    Raises:
        ConfigError: the drafter's width or taps do not allow it.
    """
    config, last = trainee.drafter.config, target.config.num_layers
    taps = [last if tap == -1 else tap for tap in trainee.taps]
    M = target.config.hidden_size
    if last not in taps or config.layers.hidden_size != M:
        raise ConfigError(
            f"taps {list(trainee.taps)}, width {config.layers.hidden_size}: a fitted start needs the last state (-1) "
            f"among the taps and the target's width {M}; start without it (init random)"
        )
    final = slice(taps.index(last) * M, (taps.index(last) + 1) * M)
    rule = RowRule(lead=2, masks=0)
    batches = [collate([text], rule) for text in texts]
    trainee.rescale(_rms(trainee, batches))
    # A drafter without a final norm has its head read the state itself, as the target's does.
    norm_M = target.decoder.norm_M.float() if trainee.norm is not None else torch.ones(M, device=target.device)
    maps_KWM, explained = _solve(trainee, batches, final, norm_M, ridge)
    _set(trainee, maps_KWM, norm_M)
    log.info("fitted start: fc explains %.0f%% of the next final state", 100 * explained)
    return explained


def take_layers(trainee: FeatureTrainee, target: Target, indices: Sequence[int]) -> None:
    """Copy layers of the target (negative: from the end) into the drafter's; raises ConfigError if they do not fit."""
    config, layers = trainee.drafter.config.layers, target.decoder.stack.layers
    if len(indices) != len(trainee.layers) or not all(-len(layers) <= i < len(layers) for i in indices):
        raise ConfigError(
            f"init layers {list(indices)}: expected one of the target's {len(layers)} for each of the drafter's "
            f"{len(trainee.layers)}"
        )
    for own, index in zip(trainee.layers, indices, strict=True):
        pieces = layers[index].pieces(target.config, "")
        shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
        if {name: tensor.shape for name, tensor in pieces.items()} != shapes:
            raise ConfigError(f"the target's layers do not fit the drafter's of width {config.hidden_size}")
        own.load_state_dict({name: tensor.float() for name, tensor in pieces.items()})


@torch.no_grad()
def damp(trainee: FeatureTrainee, factor: float = BRANCH) -> None:
    """Make what layers and residual blocks add small."""
    for layer in trainee.layers:
        layer.self_attn.o_proj.weight.mul_(factor)
        layer.mlp.down_proj.weight.mul_(factor)
    for block in trainee.res_blocks:
        for parameter in block.parameters():
            parameter.mul_(factor)


@torch.no_grad()
def _rms(trainee: FeatureTrainee, batches: Sequence[Batch]) -> Tensor:
    """[W] of the joined inputs."""
    total, count = torch.zeros_like(trainee.scale_W), 0
    for batch in batches:
        joined_TW = trainee.joined(batch.to(trainee.device)).float()
        total += joined_TW.square().sum(0)
        count += len(joined_TW)
    return (total / count).sqrt().clamp(min=1e-6)


@torch.no_grad()
def _solve(
    trainee: FeatureTrainee, batches: Sequence[Batch], final: slice, norm_M: Tensor, ridge: float
) -> tuple[Tensor, float]:
    """[K, W+1, M] maps (the last row is the offset), and the variance that the first explains."""
    K, W, M = trainee.rule.masks + 1, len(trainee.scale_W), len(norm_M)
    device = trainee.device
    gram, count = torch.zeros(W + 1, W + 1, device=device), torch.zeros(K, device=device)
    cross_KWM, square = torch.zeros(K, W + 1, M, device=device), torch.zeros(2, M, device=device)
    for batch in batches:
        batch = batch.to(device)
        state_TM = batch.features_TF[:, final].float() / norm_M
        joined_TW = torch.nn.functional.pad(trainee.joined(batch).float() / trainee.scale_W, (0, 1), value=1.0)
        gram += joined_TW.T @ joined_TW
        for depth in range(K):
            later_TM = state_TM[1 + depth :]
            cross_KWM[depth] += joined_TW[: len(later_TM)].T @ later_TM
            count[depth] += len(later_TM)
        square += torch.stack([state_TM[1:].square().sum(0), state_TM[1:].sum(0)])
    # The Gram matrix is of all rows; those without a later state are few.
    rows = gram[W, W]
    penalty = torch.full((W + 1,), ridge, device=device)
    penalty[W] = 0
    maps_KWM = torch.linalg.solve(gram / rows + penalty.diag(), cross_KWM / count[:, None, None])
    total = (square[0] / count[0] - (square[1] / count[0]).square()).sum()
    residual = (square[0] / count[0]).sum() - (maps_KWM[0] * cross_KWM[0]).sum() / count[0] * 2
    residual = residual + ((gram / rows @ maps_KWM[0]) * maps_KWM[0]).sum()
    return maps_KWM, float(1 - residual / total)


@torch.no_grad()
def _set(trainee: FeatureTrainee, maps_KWM: Tensor, norm_M: Tensor) -> None:
    matrix_MW, offset_KM = maps_KWM[0, :-1].T, maps_KWM[:, -1]
    trainee.fc.weight.copy_(matrix_MW)
    if trainee.fc.bias is not None:
        trainee.fc.bias.copy_(offset_KM[0])
    if trainee.norm is not None:
        trainee.norm.weight.copy_(norm_M)
    if trainee.mask_embedding is None:
        return
    if trainee.anchor_map is not None:
        trainee.anchor_map.weight.copy_(maps_KWM[1:, :-1].mean(0).T)
    if trainee.mask_feature is None:
        trainee.mask_embedding.weight.copy_(offset_KM[1:])
        return
    trainee.mask_feature.zero_()
    wanted_JM = offset_KM[1:] - (trainee.fc.bias if trainee.fc.bias is not None else 0.0)
    own_ME = matrix_MW[:, : trainee.mask_embedding.embedding_dim]
    square_EE = own_ME.T @ own_ME
    square_EE += 1e-2 * square_EE.diagonal().mean() * torch.eye(len(square_EE), device=trainee.device)
    trainee.mask_embedding.weight.copy_(torch.linalg.solve(square_EE, own_ME.T @ wanted_JM.T).T)
