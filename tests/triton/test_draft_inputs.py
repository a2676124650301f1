"""The Triton draft_inputs: the bits of linear over rows that are never joined in memory, and what it leaves unread."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.cases import WILD, i32, same_bits

pytest.importorskip("triton")
from pspec_rt.triton_kernels import _linear_tiles as tiles  # noqa: E402
from pspec_rt.triton_kernels._linear_tiles import BUCKETS, Order, Plan, Tile  # noqa: E402
from pspec_rt.triton_kernels.draft_inputs import draft_inputs  # noqa: E402
from pspec_rt.triton_kernels.linear import linear  # noqa: E402

V, E, F, M = 50, 24, 40, 70
DTYPES = [torch.bfloat16, torch.float32]


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape).to(dtype)


def product(x_BPW: Tensor, w_MW: Tensor, bias_M: Tensor | None) -> Tensor:
    out_BPM = x_BPW.new_empty(*x_BPW.shape[:-1], len(w_MW))
    linear(x_BPW.flatten(0, -2), w_MW, out_BPM.flatten(0, -2), bias_O=bias_M)
    return out_BPM


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("runs", [1, 2])  # of the loop, for all chunks
@pytest.mark.parametrize(
    ("B", "P", "J", "table", "anchor", "bias"),
    [
        (1, 5, 4, True, False, False),  # head: token and feature
        (3, 6, 5, True, True, True),
        (2, 3, 2, False, True, True),  # medusa: the feature alone
        (1, 65, 0, True, False, False),  # a drafter without masks, more rows than a tile
        (17, 1, 1, True, True, False),  # more slots than a tile
    ],
)
def test_bits_of_linear(
    B: int, P: int, J: int, table: bool, anchor: bool, bias: bool, runs: int, dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plan = Plan(Order("warp", 4, 16), dict.fromkeys(BUCKETS, Tile(64, 4 // runs, 4, 2)))
    monkeypatch.setattr(tiles, "plan_of", lambda *shape: plan)
    W = E * table + F
    ids_BP, count_B = torch.randint(-1, V, (B, P)).int(), torch.randint(0, P + 1, (B,)).int()
    features_BPF, masks_JM, fc_MW = (random(*shape, dtype=dtype) for shape in ((B, P, F), (J, M), (M, W)))
    table_VM = random(V, E, dtype=dtype) if table else None
    map_MW = random(M, W, dtype=dtype) if anchor else None
    bias_M = random(M, dtype=dtype) if bias else None
    out_BNM = torch.full((B, P + J, M), float("nan"), dtype=dtype)
    draft_inputs(
        ids_BP, features_BPF, count_B, masks_JM, fc_MW, out_BNM, table_VM=table_VM, bias_M=bias_M, anchor_map_MW=map_MW
    )

    joined_BPW = features_BPF
    if table_VM is not None:
        joined_BPW = torch.cat([table_VM[ids_BP.clamp(min=0).long()], features_BPF], dim=2)
    assert same_bits(out_BNM[:, :P], product(joined_BPW, fc_MW, bias_M))
    expected_BJM = masks_JM.expand(B, J, M)
    if map_MW is not None:
        anchor_B = (count_B - 1).clamp(min=0).long()
        expected_BJM = masks_JM + product(joined_BPW[torch.arange(B), anchor_B], map_MW, None)[:, None]
    assert same_bits(out_BNM[:, P:], expected_BJM)


@pytest.mark.usefixtures("triton_device")
def test_only_what_the_ids_name_is_read() -> None:
    """Other rows of the table are NaN, and so is the feature of a padding row, whose id reads row 0."""
    table_VM, features_BPF = torch.full((V, E), float("nan")), torch.randn(1, 4, F)
    table_VM[[0, 7, 9]] = torch.randn(3, E)
    features_BPF[0, 3] = float("nan")
    out_BNM, masks_JM = torch.empty(1, 6, M), torch.randn(2, M)
    fc_MW, map_MW = torch.randn(M, E + F), torch.randn(M, E + F)
    ids_BP = i32([[7, 9, -1, -WILD]])
    draft_inputs(ids_BP, features_BPF, i32([2]), masks_JM, fc_MW, out_BNM, table_VM=table_VM, anchor_map_MW=map_MW)
    assert out_BNM[0, [0, 1, 2, 4, 5]].isfinite().all() and out_BNM[0, 3].isnan().all()
