"""csrc/cuda/draft_forward.cu run by the emulation, all its blocks side by side, against the op-by-op definition."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from pspec_rt.ref.draft_forward import DraftHead
from tests.draft_case import DraftCase, draft_case, run_ref

from .build import needs_compiler
from .matrix import Library

pytestmark = needs_compiler
module = importlib.import_module("pspec_rt.ops.draft_forward")  # of which pspec_rt.ops shows the function


def run(library: Library, case: DraftCase) -> tuple[Tensor, Tensor]:
    """ids and scores of the kernel, by the same packing as the op's adaptor does for CUDA."""

    class Native:
        @staticmethod
        def cuda_draft_forward_bytes(sizes: list[int]) -> int:
            return library.int64("draft_forward_bytes", (ctypes.c_int64 * len(sizes))(*sizes))

        @staticmethod
        def cuda_draft_forward(addresses: list[int], sizes: list[int], eps: float, scale: float, *_: object) -> None:
            packed = (ctypes.c_uint64 * len(addresses))(*addresses), (ctypes.c_int64 * len(sizes))(*sizes)
            library.call("run_draft_forward", *packed, ctypes.c_float(eps), ctypes.c_float(scale))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "native", Native)
        patch.setattr(module, "cuda_stream", lambda: 0)
        ids_RC, scores_RC = case.outputs()
        module._cuda(*case.arguments(), ids_RC, scores_RC, **case.sampling)
    return ids_RC, scores_RC


@pytest.mark.parametrize("order, seed", [(0, 0), (1, 0), (2, 3)])
@pytest.mark.parametrize("sampled", [False, True])
def test_formula(library: Library, sampled: bool, order: int, seed: int) -> None:
    library.set_order(order, seed)
    check(library, draft_case(B=2, K=3, prefixes=[37, 5], sampled=sampled))


SIZES = [
    {"B": 1, "K": 8, "prefixes": [100]},  # a reduced vocabulary comes in `sampled`
    {"B": 1, "K": 2, "prefixes": [0], "E": 128, "H": 2, "G": 1},
    {"B": 4, "K": 8, "prefixes": [9, 64, 1, 33], "table": False},  # 64 rows
    {"B": 2, "K": 6, "prefixes": [20, 70], "M": 104, "I": 200, "H": 6, "G": 2, "D": 333},  # ragged tiles
]


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes(library: Library, sizes: dict[str, Any]) -> None:
    library.set_order(0, 0)
    check(library, draft_case(**sizes))


def check(library: Library, case: DraftCase) -> None:
    """Within bf16's rounding of the definition, which rounds alike between the ops; twice the same; the cache's other
    rows untouched."""
    before = case.k_BGSE.clone(), case.v_BGSE.clone()
    ids_RC, scores_RC = run(library, case)
    kernel_cache = case.k_BGSE.clone(), case.v_BGSE.clone()
    again = run(library, case)
    assert torch.equal(ids_RC, again[0]) and torch.equal(scores_RC, again[1])
    case.k_BGSE.copy_(before[0]), case.v_BGSE.copy_(before[1])
    expected = run_ref(case)
    for ours, theirs, old in zip(kernel_cache, (case.k_BGSE, case.v_BGSE), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=3e-2, atol=3e-2, equal_nan=True)
        written_BS = (theirs != old).any(dim=3).any(dim=1)
        assert torch.equal(
            ours.permute(0, 2, 1, 3)[~written_BS].nan_to_num(7), old.permute(0, 2, 1, 3)[~written_BS].nan_to_num(7)
        )
    case.check(ids_RC, scores_RC, expected)


def test_a_broken_row_stays_alone(library: Library) -> None:
    """NaN in what a padding row reads reaches no row that predicts."""
    library.set_order(0, 0)
    case = draft_case(B=1, K=3, prefixes=[12], counts=[2])
    case.features_BPF[0, 2:] = torch.nan
    check(library, case)


def test_head_names_every_tensor() -> None:
    """The adaptor hands the weights over in the order of the fields, as csrc/cuda/draft_forward.h does."""
    names = "fc_MW fc_bias_M table_VZ input_norm_M qkv_XM o_MO post_norm_M gate_up_2IM down_MI norm_M head_DM".split()
    assert [field.name for field in fields(DraftHead)] == [*names, "cos_SE", "sin_SE", "eps"]
