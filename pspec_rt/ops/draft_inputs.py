"""draft_inputs: the rows a parallel drafter reads, accepted tokens first, then masks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize import Int8Weight, Weight
from ..ref.draft_inputs import draft_inputs as _ref
from ._dispatch import DTYPE_CODE, Op, expect_backend, expect_dtypes, expect_shape, native, ptr, triton_kernel

EXACT_ROWS = 64  # more are a prefill, where a library GEMM wins


def _cpu(
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
    (B, P, F), (J, M) = features_BPF.shape, mask_inputs_JM.shape
    tensors = (ids_BP, features_BPF, count_B, mask_inputs_JM, fc_MW)
    weights = (table_VM, bias_M, anchor_map_MW)
    if B * P > EXACT_ROWS:
        _ref(*tensors, out_BNM, table_VM=table_VM, bias_M=bias_M, anchor_map_MW=anchor_map_MW)
        return
    V, E = (0, 0) if table_VM is None else table_VM.shape
    code = DTYPE_CODE[out_BNM.dtype]
    codes = (code, code if table_VM is None else DTYPE_CODE[table_VM.dtype])
    native.draft_inputs(*map(ptr, (*tensors, out_BNM, *weights)), B, P, J, M, F, E, V, *codes)


_op = Op("draft_inputs", ref=_ref, cpu=_cpu, triton=triton_kernel("draft_inputs"))


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
    """Rows 0..P-1 = fc([embed(id) ; feature]) + bias, rows P..P+J-1 = the mask inputs; N = P + J.

    Without a table the joined input is the feature alone. With an anchor map, every mask row gets
    anchor_map @ (joined input of row count-1, the newest accepted one) added. ids < 0 are padding
    and read row 0 of the table; padding rows are computed like the others, their readers mask them.
    Mask rows after ParallelSpec (arXiv 2410.05589).

    Args:
        ids_BP: [B, P] int32, -1 padded.
        features_BPF: [B, P, F] model dtype.
        count_B: [B] int32 accepted rows; 0 (finished slot) counts as 1.
        mask_inputs_JM: [J, M] inputs of the mask rows, fc already applied; J may be 0.
        fc_MW: [M, W], W = E + F with a table of width E, else F.
        out_BNM: [B, P+J, M] written.
        table_VM: [V, E] token embeddings, also as an `Int8Weight`, or None.
        bias_M: [M] or None.
        anchor_map_MW: [M, W] or None.
    """
    (B, P), (J, M) = ids_BP.shape, mask_inputs_JM.shape
    width = features_BPF.shape[2] + (0 if table_VM is None else table_VM.shape[1])
    expect_shape("fc_MW", fc_MW, M, width)
    expect_shape("out_BNM", out_BNM, B, P + J, M)
    expect_dtypes(torch.int32, ids_BP=ids_BP, count_B=count_B)
    weights = {"bias_M": bias_M, "anchor_map_MW": anchor_map_MW}
    inputs = {"features_BPF": features_BPF, "mask_inputs_JM": mask_inputs_JM, "fc_MW": fc_MW}
    expect_dtypes(out_BNM.dtype, **inputs, **weights)
    if isinstance(table_VM, Int8Weight):
        expect_backend(_op, "table_VM", table_VM)
    else:
        expect_dtypes(out_BNM.dtype, table_VM=table_VM)
    _op(out_BNM.device)(ids_BP, features_BPF, count_B, mask_inputs_JM, fc_MW, out_BNM, table_VM=table_VM, **weights)
