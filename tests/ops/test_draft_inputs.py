"""draft_inputs against the formula row by row, in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops

from .cases import i32

V, E, F, M = 20, 5, 7, 6


def row_input(ids_BP: Tensor, features_BPF: Tensor, table_VM: Tensor | None, b: int, i: int) -> Tensor:
    feature = features_BPF[b, i].double()
    if table_VM is None:
        return feature
    return torch.cat([table_VM[max(int(ids_BP[b, i]), 0)].double(), feature])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("B, P, J", [(1, 1, 0), (3, 5, 4), (2, 9, 1)])
def test_formula(backend: str, B: int, P: int, J: int, extras: bool, table: bool, dtype: torch.dtype) -> None:
    W = F + (E if table else 0)
    ids_BP, count_B = torch.randint(-1, V, (B, P)).int(), torch.randint(0, P + 1, (B,)).int()
    features_BPF, mask_inputs_JM, fc_MW = (torch.randn(*s).to(dtype) for s in ((B, P, F), (J, M), (M, W)))
    table_VM = torch.randn(V, E).to(dtype) if table else None
    bias_M = torch.randn(M).to(dtype) if extras else None
    anchor_map_MW = torch.randn(M, W).to(dtype) if extras else None
    out_BNM = torch.full((B, P + J, M), float("nan"), dtype=dtype)
    ops.draft_inputs(
        ids_BP, features_BPF, count_B, mask_inputs_JM, fc_MW, out_BNM,
        table_VM=table_VM, bias_M=bias_M, anchor_map_MW=anchor_map_MW,
    )  # fmt: skip

    for b in range(B):
        rows = [row_input(ids_BP, features_BPF, table_VM, b, i) for i in range(P)]
        anchor = torch.zeros(M, dtype=torch.float64)
        if extras:
            anchor = anchor_map_MW.double() @ rows[max(int(count_B[b]) - 1, 0)]
        bias = bias_M.double() if extras else 0
        expected = [fc_MW.double() @ row + bias for row in rows]
        expected += [mask_inputs_JM[j].double() + anchor for j in range(J)]
        # Sums of a dozen products below 10; with an anchor two roundings to bf16, of the map and of
        # the sum.
        rtol, atol = (2**-7, 2**-6) if dtype is torch.bfloat16 else (1e-5, 1e-5)
        torch.testing.assert_close(out_BNM[b].double(), torch.stack(expected), rtol=rtol, atol=atol)


def test_mask_rows_without_a_map_are_copied(backend: str) -> None:
    mask_inputs_JM, out_BNM = torch.randn(3, M), torch.empty(2, 4, M)
    features_BPF, fc_MW = torch.full((2, 1, F), float("nan")), torch.randn(M, F)
    ops.draft_inputs(i32([[1], [2]]), features_BPF, i32([1, 0]), mask_inputs_JM, fc_MW, out_BNM)
    assert torch.equal(out_BNM[:, 1:], mask_inputs_JM.expand(2, 3, M))
    assert out_BNM[:, 0].isnan().all()


def test_padding_rows_stay_to_themselves(backend: str) -> None:
    """NaN features behind count reach neither the accepted rows nor the masks."""
    features_BPF = torch.randn(1, 4, F)
    features_BPF[:, 2:] = float("nan")
    out_BNM, fc_MW = torch.empty(1, 6, M), torch.randn(M, F)
    ids_BP, masks_JM, anchor_map_MW = i32([[3, 4, -1, -1]]), torch.randn(2, M), torch.randn(M, F)
    ops.draft_inputs(ids_BP, features_BPF, i32([2]), masks_JM, fc_MW, out_BNM, anchor_map_MW=anchor_map_MW)
    assert out_BNM[0, [0, 1, 4, 5]].isfinite().all()


def test_wrong_arguments_are_named() -> None:
    ids_BP, features_BPF, masks_JM = i32([[1]]), torch.zeros(1, 1, F), torch.zeros(2, M)
    with pytest.raises(ValueError, match="fc_MW"):
        ops.draft_inputs(ids_BP, features_BPF, i32([1]), masks_JM, torch.zeros(M, F + 1), torch.zeros(1, 3, M))
    with pytest.raises(ValueError, match="out_BNM"):
        ops.draft_inputs(ids_BP, features_BPF, i32([1]), masks_JM, torch.zeros(M, F), torch.zeros(1, 2, M))
