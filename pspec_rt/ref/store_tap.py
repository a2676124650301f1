"""store_tap in plain PyTorch: one hidden state into its columns of the features."""

from __future__ import annotations

from torch import Tensor


def store_tap(state_RM: Tensor, features_RF: Tensor, column: int) -> None:
    """features[:, column : column + M] = state; see `pspec_rt.ops.store_tap`."""
    features_RF[:, column : column + state_RM.shape[1]].copy_(state_RM)
