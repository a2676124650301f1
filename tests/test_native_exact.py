"""The native arithmetic kernels: a row's bits depend on nothing but the row.

Not on the rows beside it, the number of threads, the address of the buffers or where a key lies; checked for each
instruction set this CPU can run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from .ops.cases import i32, random_parents, same_bits, signed, words_of

_C = pytest.importorskip("pspec_rt._C", reason="pspec_rt._C is not built (pip install -e .)")

THREADS = (1, 2, 3, 4)
DTYPES = (torch.float32, torch.bfloat16)
CODE = {torch.float32: 0, torch.bfloat16: 1}


@pytest.fixture(params=_C.build_info()["isas"], autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _C.num_threads()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa("")
    _C.set_num_threads(before)


def linear(x_RI: Tensor, w_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Native linear with fp32 output."""
    (R, I), O = x_RI.shape, w_OI.shape[0]
    out_RO = torch.full((R, O), float("nan"))
    bias = 0 if bias_O is None else bias_O.data_ptr()
    codes = (CODE[x_RI.dtype], CODE[w_OI.dtype], 0)
    _C.linear(x_RI.data_ptr(), w_OI.data_ptr(), bias, 0, out_RO.data_ptr(), R, I, O, 0.0, False, False, *codes)
    return out_RO


def unaligned(x: Tensor) -> Tensor:
    """The same values at an address that is a multiple of the element size only."""
    return torch.cat([torch.zeros(1, dtype=x.dtype), x.flatten()])[1:].view(x.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("I", [1, 8, 15, 16, 17, 100, 576])
def test_linear_rows(I: int, dtype: torch.dtype) -> None:
    O = 75
    x_RI, w_OI, bias_O = torch.randn(64, I).to(dtype), torch.randn(O, I).to(dtype), torch.randn(O).to(dtype)
    _C.set_num_threads(1)
    alone_RO = torch.cat([linear(x_RI[r : r + 1], w_OI, bias_O) for r in range(64)])
    for threads in THREADS:
        _C.set_num_threads(threads)
        for R in range(1, 65):
            assert same_bits(linear(x_RI[:R], w_OI, bias_O), alone_RO[:R]), (R, threads)
    assert same_bits(linear(unaligned(x_RI), unaligned(w_OI), unaligned(bias_O)), alone_RO)
    exact_RO = x_RI.double() @ w_OI.double().T + bias_O.double()
    scale_RO = x_RI.double().abs() @ w_OI.double().abs().T + bias_O.double().abs()
    assert ((alone_RO - exact_RO).abs() <= (I + 1) * 2.0**-24 * scale_RO).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_columns(dtype: torch.dtype) -> None:
    """A column's bits do not depend on the columns beside it: the head may be sliced."""
    x_RI, w_OI = torch.randn(9, 70).to(dtype), torch.randn(200, 70).to(dtype)
    whole_RO = linear(x_RI, w_OI)
    for first, last in ((0, 1), (1, 34), (7, 199), (64, 200)):
        part_RO = linear(x_RI, w_OI[first:last].clone())
        assert same_bits(part_RO, whole_RO[:, first:last].contiguous()), (first, last)


def head_top_k(
    x_RM: Tensor, w_DM: Tensor, C: int, temperature_R: Tensor, noise_QV: Tensor, noise_row_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Native head_top_k: ids and scores."""
    (R, M), D = x_RM.shape, w_DM.shape[0]
    ids_RC, scores_RC = torch.empty(R, C, dtype=torch.int32), torch.empty(R, C)
    tensors = (x_RM, w_DM, ids_RC, scores_RC, temperature_R, noise_QV, noise_row_R)
    codes = (CODE[x_RM.dtype], CODE[w_DM.dtype])
    _C.head_top_k(*(t.data_ptr() for t in tensors), 0, R, M, D, noise_QV.shape[1], C, *codes)
    return ids_RC, scores_RC


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [5, 256, 1000])
def test_head_top_k_rows(D: int, dtype: torch.dtype) -> None:
    M, C = 40, 5
    x_RM, w_DM = torch.randn(64, M).to(dtype), torch.randn(D, M).to(dtype)
    noise_QV, noise_row_R = torch.randn(4, D), i32(torch.arange(64) % 4)
    temperature_R = torch.tensor([0.0, 0.5, 1.0, 2.0]).repeat(16)

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        return head_top_k(x_RM[rows], w_DM, C, temperature_R[rows], noise_QV, noise_row_R[rows])

    _C.set_num_threads(1)
    ids_RC, scores_RC = (torch.cat(t) for t in zip(*(run(slice(r, r + 1)) for r in range(64)), strict=True))
    for threads in THREADS:
        _C.set_num_threads(threads)
        for R in (1, 2, 3, 7, 8, 9, 33, 64):
            ids, scores = run(slice(0, R))
            assert torch.equal(ids, ids_RC[:R]) and same_bits(scores, scores_RC[:R]), (R, threads)

    value_RD = linear(x_RM, w_DM)
    noisy = temperature_R > 0
    value_RD[noisy] = value_RD[noisy] / temperature_R[noisy, None] + noise_QV[noise_row_R[noisy].long()]
    assert torch.equal(ids_RC.long(), value_RD.sort(dim=1, descending=True, stable=True).indices[:, :C])
    expected_RC = value_RD.log_softmax(1).gather(1, ids_RC.long())
    torch.testing.assert_close(scores_RC, expected_RC, rtol=1e-5, atol=1e-4)


class Attention:
    """Random queries, trees and caches of one shape, rows that no node sees being NaN."""

    def __init__(self, prefix: list[int], N: int, H: int, G: int, E: int, dtype: torch.dtype) -> None:
        self.prefix, self.H, self.G, self.E = prefix, H, G, E
        self.S, self.B, self.dtype = max(prefix) + N, len(prefix), dtype
        rng = random.Random(N * E)
        self.parents = [random_parents(N, rng) for _ in prefix]
        self.words_BN = torch.tensor([[signed(w) for w in words_of(p)] for p in self.parents])
        self.q_BNHE = torch.randn(self.B, N, H, E).to(dtype)
        self.kv_2BGSE = torch.randn(2, self.B, G, self.S, E).to(dtype)
        for b, length in enumerate(prefix):
            self.kv_2BGSE[:, b, :, length + N :] = float("nan")

    def path(self, b: int, n: int) -> list[int]:
        """Cache rows the node attends to, in logical order."""
        word = self.words_BN[b, n].item()
        tree = [self.prefix[b] + i for i in range(64) if word >> i & 1]
        return [*range(self.prefix[b]), *tree]

    def run(self, window: int) -> Tensor:
        return attend(self.q_BNHE, self.kv_2BGSE, i32(self.prefix), self.words_BN, window)

    def committed(self, b: int, n: int, window: int) -> Tensor:
        """The same node, its path committed: a plain decode, one node, all earlier keys in the prefix."""
        rows = self.path(b, n)
        kv_2BGSE = self.kv_2BGSE[:, b : b + 1, :, rows].contiguous()
        q_BNHE = self.q_BNHE[b : b + 1, n : n + 1].contiguous()
        return attend(q_BNHE, kv_2BGSE, i32([len(rows) - 1]), torch.tensor([[1]]), window)[0, 0]

    def exact(self, b: int, n: int, window: int) -> Tensor:
        """The node's output in fp64."""
        rows = self.path(b, n)[-window:] if window else self.path(b, n)
        k_HTE, v_HTE = (x[b, :, rows].double().repeat_interleave(self.H // self.G, 0) for x in self.kv_2BGSE)
        scores_HT = (k_HTE @ self.q_BNHE[b, n].double()[:, :, None])[:, :, 0] * self.E**-0.5
        return (scores_HT.softmax(1)[:, None] @ v_HTE)[:, 0]


def attend(q_BNHE: Tensor, kv_2BGSE: Tensor, prefix_B: Tensor, words_BN: Tensor, window: int) -> Tensor:
    """Native tree_attention."""
    (B, N, H, E), (_, _, G, S, _) = q_BNHE.shape, kv_2BGSE.shape
    out_BNHE = torch.full_like(q_BNHE, float("nan"))
    tensors = (q_BNHE, kv_2BGSE[0], kv_2BGSE[1], prefix_B, words_BN, out_BNHE)
    sizes = (B, N, H, G, S, E, E**-0.5, window, CODE[q_BNHE.dtype], G * S * E, S * E)
    _C.tree_attention(*(t.data_ptr() for t in tensors), *sizes)
    return out_BNHE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 7, 300])
@pytest.mark.parametrize(
    ("prefix", "N", "H", "G", "E"),
    [
        ([3], 1, 2, 1, 8),
        ([0, 255, 256], 5, 6, 2, 20),  # the tree starts at a run's begin, end and in between
        ([250, 600], 16, 3, 3, 64),  # paths that cross from one run into the next
        ([200], 64, 2, 1, 16),
    ],
)
def test_attention_does_not_see_where_keys_lie(
    prefix: list[int], N: int, H: int, G: int, E: int, window: int, dtype: torch.dtype
) -> None:
    case = Attention(prefix, N, H, G, E, dtype)
    _C.set_num_threads(1)
    out_BNHE = case.run(window)
    for threads in THREADS[1:]:
        _C.set_num_threads(threads)
        assert same_bits(case.run(window), out_BNHE), threads
    tolerance = 2e-6 if dtype is torch.float32 else 2.0**-7
    for b in range(case.B):
        for n in range(0, N, max(1, N // 8)):
            assert same_bits(case.committed(b, n, window), out_BNHE[b, n]), (b, n)
            exact_HE = case.exact(b, n, window)
            torch.testing.assert_close(out_BNHE[b, n].double(), exact_HE, rtol=tolerance, atol=tolerance)


def test_attention_padding_nodes_are_zero() -> None:
    case = Attention([40], 6, 2, 1, 8, torch.float32)
    whole_BNHE = case.run(0)
    case.words_BN[0, 3] = 0
    case.kv_2BGSE[:, 0, :, 43] = float("nan")
    alive = [n for n in range(6) if not case.words_BN[0, n].item() >> 3 & 1]
    out_BNHE = case.run(0)
    assert torch.equal(out_BNHE[0, 3], torch.zeros(2, 8))
    for n in set(alive) - {3}:
        assert same_bits(out_BNHE[0, n], whole_BNHE[0, n])


def test_attention_window_hides_older_nan() -> None:
    case = Attention([500], 1, 2, 1, 8, torch.float32)
    clean_BNHE = case.run(100)
    case.kv_2BGSE[:, :, :, :401] = float("nan")
    assert same_bits(case.run(100), clean_BNHE)
