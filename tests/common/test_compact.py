"""In-place compaction against copying the accepted rows out and back, over random paths."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import _C

from ..ops.cases import WILD, i32

S, L2, G = 24, 4, 2


def compact(kv: Tensor, path_BP: Tensor, count_B: Tensor, length_B: Tensor) -> None:
    """Run the native kernel on kv [2L, B, G, S, E] of any dtype, in place."""
    B, P = path_BP.shape
    row_bytes = kv.shape[4] * kv.element_size()
    addresses = [x.data_ptr() for x in (kv, path_BP, count_B, length_B)]
    _C.compact_kv(*addresses, kv.shape[0], B, kv.shape[2], kv.shape[3], row_bytes, P)


@st.composite
def accepted_paths(draw: st.DrawFn) -> tuple[list[int], int]:
    """An accepted path (ascending nodes from the root; may be empty) and the prefix before it."""
    later = draw(st.sets(st.integers(1, 11), max_size=6))
    path = [0, *sorted(later)] if draw(st.booleans()) or later else []
    return path, draw(st.integers(0, S - 12))


@given(
    slots=st.lists(accepted_paths(), min_size=1, max_size=3),
    E=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_equals_a_copy(slots: list[tuple[list[int], int]], E: int, dtype: torch.dtype) -> None:
    P = 8
    kv = torch.randn(L2, len(slots), G, S, E).to(dtype)
    expected = kv.clone()
    for b, (path, prefix) in enumerate(slots):
        accepted = kv[:, b, :, [prefix + node for node in path]].clone()
        expected[:, b, :, prefix : prefix + len(path)] = accepted
    path_BP = i32([path + [-1] * (P - len(path)) for path, _ in slots])
    count_B = i32([len(path) for path, _ in slots])
    length_B = i32([prefix + 1 + len(path) for path, prefix in slots])
    compact(kv, path_BP, count_B, length_B)
    assert torch.equal(kv, expected)


def test_entries_after_count_are_not_read() -> None:
    kv = torch.randn(2, 1, 1, S, 3)
    before = kv.clone()
    compact(kv, i32([[0, WILD, WILD]]), i32([1]), i32([5]))
    compact(kv, i32([[WILD, WILD, WILD]]), i32([0]), i32([5]))
    assert torch.equal(kv, before)
