"""compact_kv against moving row after row in order; every other byte of the cache must stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import ops

from .cases import WILD, bits, i32

DTYPES = [torch.bfloat16, torch.float32]


def random_cache(L: int, B: int, G: int, S: int, E: int, dtype: torch.dtype) -> Tensor:
    """Random bit patterns, NaN among them: rows move as bytes."""
    integer = {torch.bfloat16: torch.int16, torch.float32: torch.int32}[dtype]
    info = torch.iinfo(integer)
    return torch.randint(info.min, info.max, (L, 2, B, G, S, E), dtype=integer).view(dtype)


def moved(kv_L2BGSE: Tensor, paths: list[list[int]], lengths: list[int]) -> Tensor:
    """The definition: ascending, in place, one row at a time."""
    kv_L2BGSE = kv_L2BGSE.clone()
    for b, (path, length) in enumerate(zip(paths, lengths, strict=True)):
        base = length - len(path) - 1
        for i in range(1, len(path)):
            kv_L2BGSE[:, :, b, :, base + i] = kv_L2BGSE[:, :, b, :, base + path[i]].clone()
    return kv_L2BGSE


def check(kv_L2BGSE: Tensor, paths: list[list[int]], lengths: list[int], P: int) -> None:
    """`paths` are the accepted nodes; what follows them in path_BP is wild."""
    expected = moved(kv_L2BGSE, paths, lengths)
    path_BP = i32([path + [WILD] * (P - len(path)) for path in paths])
    ops.compact_kv(kv_L2BGSE, path_BP, i32([len(path) for path in paths]), i32(lengths))
    assert torch.equal(bits(kv_L2BGSE), bits(expected))


@st.composite
def slots(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int, int]:
    """Accepted paths, lengths after acceptance, P, N."""
    N, B = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    P = draw(st.integers(1, N))
    paths, lengths = [], []
    for _ in range(B):
        count = draw(st.integers(0, P))
        nodes = draw(st.lists(st.integers(1, N - 1), unique=True, max_size=count - 1)) if count > 1 and N > 1 else []
        paths.append([0, *sorted(nodes)] if count else [])
        lengths.append(draw(st.integers(1, 6)) + len(paths[-1]))
    return paths, lengths, P, N


@given(case=slots())
def test_rule(backend: str, case: tuple[list[list[int]], list[int], int, int]) -> None:
    paths, lengths, P, N = case
    S = max(length - len(path) - 1 for length, path in zip(lengths, paths, strict=True)) + N
    check(random_cache(2, len(paths), 2, S, 4, torch.bfloat16), paths, lengths, P)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("G, E", [(1, 8), (3, 64), (2, 128), (1, 5)])
def test_layouts(backend: str, G: int, E: int, dtype: torch.dtype) -> None:
    check(random_cache(3, 2, G, 50, E, dtype), [[0, 2, 3, 9], [0, 5]], [14, 4], P=6)


def test_64_nodes(backend: str) -> None:
    path = [0, *range(3, 64, 3)]
    check(random_cache(1, 1, 2, 80, 8, torch.float32), [path], [16 + len(path) + 1], P=len(path))


def test_chain_moves_nothing(backend: str) -> None:
    kv_L2BGSE = random_cache(1, 1, 1, 20, 4, torch.bfloat16)
    before = kv_L2BGSE.clone()
    check(kv_L2BGSE, [[0, 1, 2, 3]], [9], P=5)
    assert torch.equal(bits(kv_L2BGSE), bits(before))


def test_finished_slots_move_nothing(backend: str) -> None:
    """Whatever path and length they hold, up to a full cache."""
    kv_L2BGSE = random_cache(1, 4, 1, 10, 4, torch.bfloat16)
    check(kv_L2BGSE, [[], [], [0], [0, 2]], [1, 10, 10, 9], P=6)


def test_moves_overlap(backend: str) -> None:
    """Rows that are both source and destination: the order matters."""
    check(random_cache(1, 1, 1, 12, 4, torch.float32), [[0, 2, 3, 4, 5, 7]], [8], P=6)


def test_wrong_arguments_are_named() -> None:
    kv_L2BGSE = torch.zeros(1, 2, 2, 1, 8, 4)
    with pytest.raises(ValueError, match="path_BP"):
        ops.compact_kv(kv_L2BGSE, i32([[0]]), i32([1, 1]), i32([2, 2]))
    with pytest.raises(ValueError, match="count_B.*int32"):
        ops.compact_kv(kv_L2BGSE, i32([[0], [0]]), torch.tensor([1, 1]), i32([2, 2]))
