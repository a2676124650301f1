"""move_rows against compact_kv's own rule, one row after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import ops

from .cases import i32


def move(buffers: list[Tensor], from_BP: Tensor, to_BP: Tensor) -> None:
    ops.move_rows(buffers, torch.tensor([x.data_ptr() for x in buffers]), from_BP, to_BP)


def check(buffers: list[Tensor], moves: list[list[tuple[int, int]]], P: int) -> None:
    """`moves` per sequence, done one by one in order; the op has them padded."""
    expected = [x.clone() for x in buffers]
    for x in expected:
        for source, target in (pair for pairs in moves for pair in pairs):
            x[target] = x[source].clone()
    padded = [pairs + [(-1, -1)] * (P - len(pairs)) for pairs in moves]
    move(buffers, i32([[a for a, _ in pairs] for pairs in padded]), i32([[b for _, b in pairs] for pairs in padded]))
    for x, y in zip(buffers, expected, strict=True):
        assert torch.equal(x, y)


@st.composite
def paged(draw: st.DrawFn) -> tuple[list[list[tuple[int, int]]], int]:
    """Accepted paths over cache rows scattered by a slot mapping; the rows of the pool."""
    N, B = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    rows = draw(st.permutations(range(N * B + 5)))
    moves = []
    for b in range(B):
        slot = rows[b * N : (b + 1) * N]
        path = [0, *sorted(draw(st.sets(st.integers(1, N - 1), max_size=N - 1)))] if N > 1 else [0]
        moves.append([(slot[node], slot[i]) for i, node in enumerate(path)][draw(st.integers(0, 1)) :])
    return moves, len(rows)


@given(case=paged(), width=st.sampled_from([1, 3, 8]), L=st.integers(1, 3))
def test_rule(backend: str, case: tuple[list[list[tuple[int, int]]], int], width: int, L: int) -> None:
    moves, rows = case
    check([torch.randn(rows, 2, width) for _ in range(L)], moves, P=12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(8, 128), (3, 64), (1, 5)])
def test_layouts(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    moves = [[(9, 4), (11, 9), (30, 11)], [(2, 2), (5, 3)]]
    check([torch.randn(40, *shape).to(dtype) for _ in range(4)], moves, P=9)


def test_nothing_moves(backend: str) -> None:
    buffers = [torch.randn(4, 3)]
    before = buffers[0].clone()
    move(buffers, i32([[-1, -1], [2, -1]]), i32([[0, 1], [2, -1]]))
    assert torch.equal(buffers[0], before)


def test_wrong_arguments_are_named() -> None:
    buffers = [torch.zeros(4, 3), torch.zeros(4, 3)]
    with pytest.raises(ValueError, match="buffers"):
        move([torch.zeros(4, 3), torch.zeros(5, 3)], i32([[0]]), i32([[0]]))
    with pytest.raises(ValueError, match="addresses_L"):
        ops.move_rows(buffers, torch.zeros(1, dtype=torch.int64), i32([[0]]), i32([[0]]))
    with pytest.raises(ValueError, match="to_BP"):
        move(buffers, i32([[0]]), i32([[0, 1]]))
