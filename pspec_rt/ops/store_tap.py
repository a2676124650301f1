"""store_tap: keep a hidden state of the target for the drafter, beside the other tapped ones."""

from __future__ import annotations

from torch import Tensor

from ..ref.store_tap import store_tap as _ref
from ._dispatch import Op, expect_dtype, expect_shape, native, ptr, triton_kernel


def _cpu(state_RM: Tensor, features_RF: Tensor, column: int) -> None:
    (R, M), F, size = state_RM.shape, features_RF.shape[1], state_RM.itemsize
    native.store_tap(ptr(state_RM), ptr(features_RF), R, M * size, F * size, column * size)


_op = Op("store_tap", ref=_ref, cpu=_cpu, triton=triton_kernel("store_tap"))


def store_tap(state_RM: Tensor, features_RF: Tensor, column: int) -> None:
    """features[r, column : column + M] = state[r].

    Args:
        state_RM: [R, M] any dtype.
        features_RF: [R, F] same dtype; columns column .. column+M-1 are written.
        column: 0 <= column <= F - M.
    """
    R, M = state_RM.shape
    expect_shape("features_RF", features_RF, R, features_RF.shape[1])
    expect_dtype("features_RF", features_RF, state_RM.dtype)
    if not 0 <= column <= features_RF.shape[1] - M:
        raise ValueError(f"column: {column} leaves no room for {M} columns of {features_RF.shape[1]}")
    _op(state_RM.device)(state_RM, features_RF, column)
