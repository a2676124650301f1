"""embed against indexing row by row."""

from __future__ import annotations

import pytest
import torch

from pspec_rt import ops

from .cases import ROWS, i32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("R", ROWS)
def test_rows_of_the_table(backend: str, R: int, dtype: torch.dtype) -> None:
    table_VM = torch.randn(31, 7).to(dtype)
    ids = torch.randint(-1, 31, (R,)).tolist()
    out_RM = torch.empty(R, 7, dtype=dtype)
    ops.embed(i32(ids), table_VM, out_RM)
    for row, token in zip(out_RM, ids, strict=True):
        assert torch.equal(row, table_VM[token if token >= 0 else 0])


def test_any_negative_id_is_padding(backend: str) -> None:
    out_RM = torch.empty(2, 3)
    ops.embed(i32([-(2**31), -7]), torch.arange(6.0).view(2, 3), out_RM)
    assert out_RM.tolist() == [[0, 1, 2]] * 2


def test_wrong_arguments_are_named() -> None:
    table_VM, out_RM = torch.zeros(5, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="ids_R.*int32"):
        ops.embed(torch.tensor([1, 2]), table_VM, out_RM)
    with pytest.raises(ValueError, match=r"out_RM.*\(3, 3\)"):
        ops.embed(i32([1, 2, 3]), table_VM, out_RM)
