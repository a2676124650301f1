"""tree_attention against softmax over the gathered keys of each row, in fp64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY

from .cases import i32, interpreted, random_parents, same_bits, set_threads, signed, words_of

NAN = float("nan")
DTYPES = [torch.bfloat16, torch.float32]


def seen_rows(prefix: int, word: int, window: int) -> list[int]:
    """Cache rows a node sees, in logical order."""
    rows = list(range(prefix)) + [prefix + i for i in range(64) if word >> i & 1]
    return (rows[-window:] if window else rows) if word else []


class Case:
    """Random queries, cache and trees; rows that no node of a slot sees hold NaN."""

    def __init__(
        self, prefixes: list[int], N: int, H: int, G: int, E: int, dtype: torch.dtype,
        window: int = 0, parents: list[int] | None = None,
    ) -> None:  # fmt: skip
        B, S = len(prefixes), max(prefixes) + N + 3
        self.window, self.scale, self.prefixes = window, E**-0.5, prefixes
        self.q_BNHE = (torch.randn(B, N, H, E) * 2).to(dtype)
        self.k_BGSE, self.v_BGSE = (torch.randn(B, G, S, E).to(dtype) for _ in "kv")
        rng = random.Random(N)
        self.words = [words_of(parents or random_parents(N, rng)) for _ in prefixes]
        for b in range(B):
            self.poison(b, set(range(S)) - {s for n in range(N) for s in self.rows(b, n)})

    def rows(self, b: int, n: int) -> list[int]:
        return seen_rows(self.prefixes[b], self.words[b][n], self.window)

    def poison(self, b: int, rows: set[int]) -> None:
        self.k_BGSE[b, :, sorted(rows)] = NAN
        self.v_BGSE[b, :, sorted(rows)] = NAN

    def run(self) -> Tensor:
        out_BNHE = torch.full_like(self.q_BNHE, NAN)
        words_BN = torch.tensor([[signed(word) for word in row] for row in self.words])
        ops.tree_attention(
            self.q_BNHE, self.k_BGSE, self.v_BGSE, i32(self.prefixes), words_BN, out_BNHE,
            scale=self.scale, window=self.window,
        )  # fmt: skip
        return out_BNHE

    def expected(self, b: int, n: int) -> Tensor:
        (H, E), G = self.q_BNHE.shape[2:], self.k_BGSE.shape[1]
        rows, out_HE = self.rows(b, n), torch.zeros(H, E, dtype=torch.float64)
        for h in range(H if rows else 0):
            k, v = (x[b, h // (H // G), rows].double() for x in (self.k_BGSE, self.v_BGSE))
            out_HE[h] = torch.softmax(k @ self.q_BNHE[b, n, h].double() * self.scale, 0) @ v
        return out_HE

    def check(self) -> None:
        out_BNHE = self.run()
        # One rounding of values below 5; scores up to some 30 carry fp32 errors of 30 * 2^-23 into
        # exp.
        bf16 = out_BNHE.dtype is torch.bfloat16
        rtol, atol = (2**-8, 1e-4) if bf16 else (1e-5, 3e-5)
        if bf16 and out_BNHE.is_cuda:  # the weights are rounded for the tensor cores, too: 2^-9 of values below 5
            atol = 1e-2
        for b in range(len(self.prefixes)):
            for n in range(out_BNHE.shape[1]):
                expected = self.expected(b, n)
                torch.testing.assert_close(out_BNHE[b, n].double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [1, 31, 32, 33, 64])
def test_tree_sizes(backend: str, N: int, dtype: torch.dtype) -> None:
    if interpreted() and N in (31, 33):
        pytest.skip("no border of this kernel")
    H, G = (2, 1) if interpreted() else (4, 2)
    Case([37], N, H, G, 8, dtype).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("H, G, E", [(1, 1, 8), (9, 3, 64), (4, 2, 128), (8, 1, 64), (5, 1, 80)])
def test_heads(backend: str, H: int, G: int, E: int, dtype: torch.dtype) -> None:
    Case([70, 3, 0], 2 if interpreted() else 6, H, G, E, dtype).check()


@pytest.mark.parametrize("prefix", [0, 1, 63, 64, 191, 192, 193, 255, 256, 257, 600])
def test_prefix_lengths(backend: str, prefix: int) -> None:
    """Around the borders of 64 and 256 where native kernels switch from one way of reading to another."""
    Case([prefix], 3 if interpreted() else 5, 2, 1, 16, torch.float32).check()


@pytest.mark.parametrize("window", [1, 2, 3, 10, 64, 300])
@pytest.mark.parametrize("prefix", [0, 5, 290])
def test_sliding_window(backend: str, prefix: int, window: int) -> None:
    N, H, G = (2, 2, 1) if interpreted() else (9, 4, 2)
    Case([prefix, 1], N, H, G, 16, torch.float32, window=window).check()


def test_chain_of_64_uses_bit_63(backend: str) -> None:
    case = Case([2], 64, 2, 1, 8, torch.float32, parents=list(range(-1, 63)))
    assert signed(case.words[0][63]) == -1  # every node is an ancestor of the last
    case.check()


def test_padding_nodes_are_zero(backend: str) -> None:
    case = Case([20], 5, 2, 2, 8, torch.bfloat16)
    case.words[0][1] = case.words[0][4] = 0
    case.check()
    assert (case.run()[0, [1, 4]] == 0).all()


@pytest.mark.parametrize("keys", [False, True])
def test_a_sibling_does_not_leak(backend: str, keys: bool) -> None:
    """NaN in a row only node 1 sees stays with node 1: 0 * NaN never enters a sum of the others."""
    case = Case([7], 3, 2, 1, 8, torch.float32, parents=[-1, 0, 0])
    (case.k_BGSE if keys else case.v_BGSE)[0, :, 7 + 1] = NAN
    out_BNHE = case.run()
    for n in (0, 2):
        torch.testing.assert_close(out_BNHE[0, n].double(), case.expected(0, n), rtol=1e-5, atol=3e-5)


def test_values_that_are_seen_may_be_nan(backend: str) -> None:
    """A model gone wrong must show, not be averaged away."""
    case = Case([7], 3, 2, 1, 8, torch.float32, parents=[-1, 0, 0])
    case.v_BGSE[0, :, 7 + 1, 3] = NAN
    out_BNHE = case.run()
    assert out_BNHE[0, 1, :, 3].isnan().all() and not out_BNHE[0, [0, 2]].isnan().any()


def test_infinite_rows_outside_do_not_leak(backend: str) -> None:
    case = Case([7], 2, 2, 1, 8, torch.float32)
    case.k_BGSE[:, :, 9:], case.v_BGSE[:, :, 9:] = float("inf"), float("-inf")
    case.check()


def test_large_scores_do_not_overflow(backend: str) -> None:
    case = Case([30], 3, 2, 1, 8, torch.float32)
    case.q_BNHE *= 1e4
    out_BNHE = case.run()
    assert out_BNHE.isfinite().all()
    assert (out_BNHE.abs() <= case.v_BGSE[:, :, :33].abs().max()).all()


def test_strided_cache(backend: str) -> None:
    """k and v as slices of one cache of both."""
    case = Case([9, 4], 4, 4, 2, 16, torch.bfloat16)
    out_BNHE = case.run()
    kv = torch.stack([case.k_BGSE, case.v_BGSE], dim=1)
    case.k_BGSE, case.v_BGSE = kv.unbind(1)
    assert same_bits(case.run(), out_BNHE)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prefix", [3, 70, 250, 513])
def test_bits_depend_on_logical_order_only(backend: str, prefix: int, dtype: torch.dtype) -> None:
    """A node of a tree gets the bits of plain decoding over the same keys laid out in a row."""
    if backend == "ref":
        pytest.skip("ref sums in storage order: exact up to near-ties only")
    N, H, G, E = (3, 3, 1, 16) if interpreted() else (17, 6, 2, 64)
    case = Case([prefix], N, H, G, E, dtype)
    set_threads(1)
    out_BNHE = case.run()
    set_threads(2)
    assert same_bits(case.run(), out_BNHE)
    for n in range(N):
        rows = case.rows(0, n)
        plain = Case([len(rows) - 1], 1, H, G, E, dtype)
        plain.q_BNHE = case.q_BNHE[:, n : n + 1].clone()
        plain.k_BGSE, plain.v_BGSE = (x[:, :, rows].contiguous() for x in (case.k_BGSE, case.v_BGSE))
        assert same_bits(plain.run()[0, 0], out_BNHE[0, n]), f"node {n}"


@pytest.mark.usefixtures("threads")
def test_slots_and_rows_are_independent(backend: str) -> None:
    if backend == "ref":
        pytest.skip("ref calls a library GEMM: exact up to near-ties only")
    N = 2 if interpreted() else 8
    case = Case([300, 3, 64], N, 4, 2, 32, torch.bfloat16)
    out_BNHE = case.run()
    for b, prefix in enumerate(case.prefixes):
        alone = Case([prefix], N, 4, 2, 32, torch.bfloat16)
        alone.q_BNHE, alone.words = case.q_BNHE[b : b + 1], [case.words[b]]
        alone.k_BGSE, alone.v_BGSE = case.k_BGSE[b : b + 1], case.v_BGSE[b : b + 1]
        assert same_bits(alone.run()[0], out_BNHE[b]), f"slot {b}"


def test_pages_need_a_kernel_that_knows_them() -> None:
    case = Case([4], 2, 2, 1, 8, torch.float32)
    tensors = (case.q_BNHE, torch.zeros(3, 1, 16, 8), torch.zeros(3, 1, 16, 8), i32([4]), torch.ones(1, 2).long())
    with pytest.raises(ValueError, match="block_table_BT.*ref and triton"):
        REGISTRY["tree_attention"].backends["cpu"](*tensors, case.q_BNHE, scale=1.0, block_table_BT=i32([[2]]))
    with pytest.raises(ValueError, match="block_table_BT: expected shape"):
        ops.tree_attention(*tensors, case.q_BNHE, scale=1.0, block_table_BT=i32([[2], [1]]))
    with pytest.raises(ValueError, match="pages of 9 rows"):
        pages = (torch.zeros(3, 1, 9, 8), torch.zeros(3, 1, 9, 8))
        ops.tree_attention(tensors[0], *pages, *tensors[3:], case.q_BNHE, scale=1.0, block_table_BT=i32([[2]]))


def test_wrong_arguments_are_named() -> None:
    case = Case([4], 2, 2, 1, 8, torch.float32)
    prefix_B, words_BN = i32([4]), torch.ones(1, 2, dtype=torch.int64)
    tensors = (case.q_BNHE, case.k_BGSE, case.v_BGSE, prefix_B)
    with pytest.raises(ValueError, match="words_BN.*int64"):
        ops.tree_attention(*tensors, i32([[1, 1]]), case.q_BNHE, scale=1.0)
    with pytest.raises(ValueError, match="out_BNHE"):
        ops.tree_attention(*tensors, words_BN, torch.zeros(1, 2, 2, 4), scale=1.0)
    with pytest.raises(ValueError, match="v_BGSE"):
        tensors = (case.q_BNHE, case.k_BGSE, case.v_BGSE[:, :, 1:], prefix_B)
        ops.tree_attention(*tensors, words_BN, torch.empty_like(case.q_BNHE), scale=1.0)
