"""gather_features in plain PyTorch: the target's features of the accepted path."""

from __future__ import annotations

import torch
from torch import Tensor

from ._index import arange


def gather_features(features_RF: Tensor, path_BP: Tensor, out_BPF: Tensor) -> None:
    """out[b, i] = features[b*N + path[b, i]] if path >= 0; see `pspec_rt.ops.gather_features`."""
    B, P, F = out_BPF.shape
    N = features_RF.shape[0] // B
    row_BP = path_BP.clamp(min=0) + (arange(B, path_BP.device) * N)[:, None]
    gathered_BPF = features_RF.index_select(0, row_BP.view(-1)).view(B, P, F)
    torch.where((path_BP >= 0)[:, :, None], gathered_BPF, out_BPF, out=out_BPF)
