"""gather_features: the target's features of the accepted path, for the next draft."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.gather_features import gather_features as _ref
from ._dispatch import Op, expect_dtype, expect_dtypes, expect_shape, native, ptr, triton_kernel


def _cpu(features_RF: Tensor, path_BP: Tensor, out_BPF: Tensor) -> None:
    B, P, F = out_BPF.shape
    row_bytes = F * out_BPF.itemsize
    native.gather_features(ptr(features_RF), ptr(path_BP), ptr(out_BPF), B, P, features_RF.shape[0] // B, row_bytes)


_op = Op("gather_features", ref=_ref, cpu=_cpu, triton=triton_kernel("gather_features"))


def gather_features(features_RF: Tensor, path_BP: Tensor, out_BPF: Tensor) -> None:
    """out[b, i] = features[b*N + path[b, i]], N = R / B; rows with path -1 keep what they hold.

    Args:
        features_RF: [B*N, F] features of every tree node.
        path_BP: [B, P] int32 accepted nodes, -1 padded.
        out_BPF: [B, P, F] same dtype; rows with path >= 0 are written.
    """
    B, P, F = out_BPF.shape
    expect_shape("features_RF", features_RF, features_RF.shape[0], F)
    expect_shape("path_BP", path_BP, B, P)
    expect_dtype("path_BP", path_BP, torch.int32)
    expect_dtypes(out_BPF.dtype, features_RF=features_RF)
    _op(out_BPF.device)(features_RF, path_BP, out_BPF)
