"""embed in plain PyTorch: rows of the embedding table."""

from __future__ import annotations

import torch
from torch import Tensor


def embed(ids_R: Tensor, table_VM: Tensor, out_RM: Tensor) -> None:
    """out[r] = table[max(ids[r], 0)]; see `pspec_rt.ops.embed`."""
    torch.index_select(table_VM, 0, ids_R.clamp(min=0), out=out_RM)
