"""store_tap against slicing: the columns of one tap, and nothing beside them."""

from __future__ import annotations

import pytest
import torch

from pspec_rt import ops

from .cases import same_bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("R, M, taps", [(1, 5, 1), (3, 7, 3), (65, 64, 2)])
def test_only_its_columns_are_written(backend: str, R: int, M: int, taps: int, dtype: torch.dtype) -> None:
    state_RM, features_RF = torch.randn(R, M).to(dtype), torch.randn(R, taps * M).to(dtype)
    for tap in range(taps):
        expected = torch.cat([features_RF[:, : tap * M], state_RM, features_RF[:, (tap + 1) * M :]], dim=1)
        ops.store_tap(state_RM, features_RF, tap * M)
        assert same_bits(features_RF, expected)
        state_RM = state_RM * 2


def test_wrong_arguments_are_named() -> None:
    for column in (-1, 5):
        with pytest.raises(ValueError, match="column"):
            ops.store_tap(torch.zeros(2, 4), torch.zeros(2, 8), column)
    with pytest.raises(ValueError, match="features_RF"):
        ops.store_tap(torch.zeros(2, 4), torch.zeros(3, 8), 0)
