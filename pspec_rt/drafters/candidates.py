"""Ranking the tokens of every drafted depth, with the round's own noise where a slot samples."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..quantize import Weight
from ..state import DecodeState


def check_candidates(state: DecodeState, vocabulary: int, kind: str) -> None:
    """Raise ConfigError if the tree asks for more candidates per depth than the drafter has tokens."""
    if state.shape.C > vocabulary:
        raise ConfigError(
            f"tree {state.shape.tree.name} asks for {state.shape.C} candidates per depth; "
            f"the {kind} drafter's vocabulary has {vocabulary} tokens"
        )


def rank_candidates(state: DecodeState, hidden_RM: Tensor, head_DM: Weight, id_map_D: Tensor | None = None) -> None:
    """Write all candidates of the state at once.

    Args:
        hidden_RM: [B*K, M] rows, row b*K + k predicting absolute position length_B + k.
        head_DM: [D, M].
        id_map_D: [D] int32 ascending token ids of a reduced vocabulary.
    """
    noise = shared_noise(state, state.temperature_BK.view(-1), state.noise_row_BK.view(-1))
    ids_RC, scores_RC = (
        state.candidate_ids_BKC.flatten(0, 1),
        state.candidate_scores_BKC.flatten(0, 1),
    )
    ops.head_top_k(hidden_RM, head_DM, ids_RC, scores_RC, id_map_D=id_map_D, **noise)


def shared_noise(state: DecodeState, temperature_R: Tensor, noise_row_R: Tensor) -> dict[str, Tensor | None]:
    """Arguments of head_top_k that rank by log_softmax(logits / T + noise), the noise being the target's own."""
    if state.mode == "greedy":
        return {}
    return {"temperature_R": temperature_R, "noise_QV": state.noise_QV, "noise_row_R": noise_row_R}


def as_id_map(d2t_D: Tensor) -> Tensor:
    """[D] int32 token ids of a reduced vocabulary from its offsets: id = i + d2t[i]."""
    return (d2t_D + torch.arange(len(d2t_D), device=d2t_D.device)).to(torch.int32)
