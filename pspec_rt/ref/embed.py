"""embed in plain PyTorch: rows of the embedding table."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize import Int8Weight, Weight


def embed(ids_R: Tensor, table_VM: Weight, out_RM: Tensor) -> None:
    """out[r] = table[max(ids[r], 0)]; see `pspec_rt.ops.embed`."""
    ids_R = ids_R.clamp(min=0)
    if isinstance(table_VM, Int8Weight):
        out_RM.copy_(table_VM.rows(ids_R))
    else:
        torch.index_select(table_VM, 0, ids_R, out=out_RM)
