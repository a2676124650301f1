"""draft_inputs in plain PyTorch: rows of the accepted tokens, then mask rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quantize import Weight
from ._index import arange
from .embed import embed


def draft_inputs(
    ids_BP: Tensor,
    features_BPF: Tensor,
    count_B: Tensor,
    mask_inputs_JM: Tensor,
    fc_MW: Tensor,
    out_BNM: Tensor,
    *,
    table_VM: Weight | None = None,
    bias_M: Tensor | None = None,
    anchor_map_MW: Tensor | None = None,
) -> None:
    """P rows fc([embed(id); feature]), then J mask rows; see `pspec_rt.ops.draft_inputs`."""
    (B, P), J = ids_BP.shape, mask_inputs_JM.shape[0]
    joined_BPW = features_BPF
    if table_VM is not None:
        embedded_BPM = features_BPF.new_empty(B, P, table_VM.shape[1])
        embed(ids_BP.flatten(), table_VM, embedded_BPM.flatten(0, 1))
        joined_BPW = torch.cat([embedded_BPM, features_BPF], dim=2)
    out_BNM[:, :P] = F.linear(joined_BPW, fc_MW, bias_M)
    if J == 0:
        return
    masks_BJM = mask_inputs_JM.expand(B, J, -1)
    if anchor_map_MW is not None:  # the anchor is the newest accepted row
        anchor_B = (count_B - 1).clamp(min=0)
        anchor_BW = joined_BPW[arange(B, count_B.device), anchor_B]
        masks_BJM = masks_BJM + F.linear(anchor_BW, anchor_map_MW)[:, None]
    out_BNM[:, P:] = masks_BJM
