"""rope_append against rotation by complex numbers in fp64, written row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops

from .cases import WILD, assert_rows_independent, bits, i32, rows_alone

DTYPES = [torch.bfloat16, torch.float32]
MAX_POSITIONS = 50


def tables(E: int) -> tuple[Tensor, Tensor]:
    """cos and sin [max_positions, E/2], as a model makes them."""
    angle = torch.arange(MAX_POSITIONS)[:, None] * 10000.0 ** (-torch.arange(0, E, 2) / E)
    return angle.cos(), angle.sin()


def rotated(head_E: Tensor, position: int) -> Tensor:
    """rope of one head in fp64: element e and element e + E/2 are one complex number."""
    E = len(head_E)
    angle = min(max(position, 0), MAX_POSITIONS - 1) * 10000.0 ** (-torch.arange(0, E, 2, dtype=torch.float64) / E)
    z = torch.complex(head_E[: E // 2].double(), head_E[E // 2 :].double())
    z = z * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag])


def normed(head_E: Tensor, weight_E: Tensor | None, eps: float) -> Tensor:
    x = head_E.double()
    return x if weight_E is None else x / (x.square().mean() + eps).sqrt() * weight_E.double()


class Case:
    """One call: random rows, a cache full of NaN, and what must come out."""

    def __init__(self, B: int, N: int, H: int, G: int, E: int, dtype: torch.dtype, norms: bool) -> None:
        S = N + 5
        self.qkv_RX = torch.randn(B * N, (H + 2 * G) * E).to(dtype)
        self.positions_BN = torch.randint(-2, MAX_POSITIONS + 3, (B, N), dtype=torch.int32)
        self.prefix_B = torch.randint(0, S - N + 1, (B,), dtype=torch.int32)
        self.k_BGSE, self.v_BGSE = (torch.full((B, G, S, E), float("nan"), dtype=dtype) for _ in "kv")
        self.q_BNHE = torch.empty(B, N, H, E, dtype=dtype)
        self.norms = [torch.rand(E).to(dtype) + 0.5 if norms else None for _ in "qk"]
        ops.rope_append(
            self.qkv_RX, self.positions_BN, self.prefix_B, *tables(E),
            self.k_BGSE, self.v_BGSE, self.q_BNHE,
            q_norm_E=self.norms[0], k_norm_E=self.norms[1], eps=1e-4,
        )  # fmt: skip

    def check(self) -> None:
        (B, N, H, E), G = self.q_BNHE.shape, self.k_BGSE.shape[1]
        heads_BNXE = self.qkv_RX.view(B, N, H + 2 * G, E)
        tolerance = 2**-8 if self.qkv_RX.dtype is torch.bfloat16 else 2e-6  # one rounding; fp32 tables
        for b in range(B):
            for n in range(N):
                position, row = int(self.positions_BN[b, n]), int(self.prefix_B[b]) + n
                got_HE = torch.cat([self.q_BNHE[b, n], self.k_BGSE[b, :, row]])
                for x in range(H + G):
                    head = normed(heads_BNXE[b, n, x], self.norms[x >= H], 1e-4)
                    expected = rotated(head, position)
                    # Cancellation: the error is relative to the pair's length, not to the element.
                    atol = tolerance * float(head.abs().max())
                    torch.testing.assert_close(got_HE[x].double(), expected, rtol=tolerance, atol=atol)
                assert torch.equal(self.v_BGSE[b, :, row], heads_BNXE[b, n, H + G :])
            outside = [s for s in range(self.k_BGSE.shape[2]) if not 0 <= s - self.prefix_B[b] < N]
            assert self.k_BGSE[b, :, outside].isnan().all() and self.v_BGSE[b, :, outside].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    "B, N, H, G, E",
    [(1, 1, 9, 3, 64), (3, 5, 8, 1, 8), (3, 2, 2, 2, 128), (1, 31, 4, 2, 8), (1, 64, 2, 1, 8)],
)
def test_formula(backend: str, B: int, N: int, H: int, G: int, E: int, norms: bool, dtype: torch.dtype) -> None:
    Case(B, N, H, G, E, dtype, norms).check()


def test_position_zero_does_not_rotate(backend: str) -> None:
    case = Case(1, 1, 2, 1, 8, torch.float32, norms=False)
    case.positions_BN.zero_()
    q_BNHE = torch.empty_like(case.q_BNHE)
    ops.rope_append(case.qkv_RX, case.positions_BN, case.prefix_B, *tables(8), case.k_BGSE, case.v_BGSE, q_BNHE)
    assert torch.equal(q_BNHE.view(-1), case.qkv_RX[0, :16])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("norms", [False, True])
def test_rows_are_independent(backend: str, norms: bool) -> None:
    H, G, E, S = 9, 3, 64, 64
    qkv_RX = torch.randn(64, (H + 2 * G) * E).to(torch.bfloat16)
    position_R = torch.randint(0, MAX_POSITIONS, (64,), dtype=torch.int32)
    weight_E = torch.rand(E).to(torch.bfloat16) if norms else None

    def run(rows: slice) -> Tensor:
        x_RX, N = qkv_RX[rows].clone(), rows.stop - rows.start
        k_BGSE, v_BGSE = (torch.zeros(1, G, S, E, dtype=torch.bfloat16) for _ in "kv")
        q_BNHE = torch.empty(1, N, H, E, dtype=torch.bfloat16)
        ops.rope_append(
            x_RX, position_R[rows][None].contiguous(), i32([0]), *tables(E), k_BGSE, v_BGSE, q_BNHE,
            q_norm_E=weight_E, k_norm_E=weight_E,
        )  # fmt: skip
        return torch.cat([q_BNHE[0], k_BGSE[0, :, :N].transpose(0, 1)], dim=1)

    assert_rows_independent(run, rows_alone())


def test_slots_do_not_mix(backend: str) -> None:
    """Three slots at once give the bits each gives alone."""
    whole = Case(3, 4, 4, 2, 16, torch.bfloat16, norms=True)
    for b in range(3):
        k_BGSE, v_BGSE = (torch.full_like(whole.k_BGSE[:1], float("nan")) for _ in "kv")
        q_BNHE = torch.empty_like(whole.q_BNHE[:1])
        ops.rope_append(
            whole.qkv_RX[4 * b : 4 * b + 4], whole.positions_BN[b : b + 1], whole.prefix_B[b : b + 1],
            *tables(16), k_BGSE, v_BGSE, q_BNHE,
            q_norm_E=whole.norms[0], k_norm_E=whole.norms[1], eps=1e-4,
        )  # fmt: skip
        assert torch.equal(bits(k_BGSE[0]), bits(whole.k_BGSE[b]))
        assert torch.equal(q_BNHE[0], whole.q_BNHE[b])


@pytest.mark.parametrize("page, prefixes", [(16, [0, 15, 37]), (64, [60, 1, 64])])
def test_pages(backend: str, page: int, prefixes: list[int]) -> None:
    """A paged cache holds the rows a contiguous one holds, and only those pages are touched that the rows need."""
    (B, N, H, G, E), T = (3, 5, 4, 2, 16), 4
    case = Case(B, N, H, G, E, torch.bfloat16, norms=True)
    prefix_B = i32(prefixes)
    contiguous = [torch.full((B, G, T * page, E), float("nan")).bfloat16() for _ in "kv"]
    pages = [torch.full((2 * B * T, G, page, E), float("nan")).bfloat16() for _ in "kv"]
    used_BT = torch.randperm(2 * B * T)[: B * T].view(B, T).int()
    entry_BT = torch.arange(T).view(1, T)
    needed_BT = (entry_BT >= prefix_B[:, None] // page) & (entry_BT <= (prefix_B[:, None] + N - 1) // page)
    block_table_BT = torch.where(needed_BT, used_BT, WILD).int()
    q_BNHE = torch.empty_like(case.q_BNHE)
    options = {"q_norm_E": case.norms[0], "k_norm_E": case.norms[1], "eps": 1e-4}
    head = (case.qkv_RX, case.positions_BN, prefix_B, *tables(E))
    if backend == "cpu":
        with pytest.raises(ValueError, match="block_table_BT.*ref and triton"):
            ops.rope_append(*head, *pages, q_BNHE, **options, block_table_BT=block_table_BT)
        return
    ops.rope_append(*head, *contiguous, case.q_BNHE, **options)
    ops.rope_append(*head, *pages, q_BNHE, **options, block_table_BT=block_table_BT)
    assert torch.equal(q_BNHE, case.q_BNHE)
    for paged, flat in zip(pages, contiguous, strict=True):
        gathered = paged[used_BT.long()].transpose(1, 2).reshape(B, G, T * page, E)
        assert torch.equal(bits(gathered), bits(flat))
        assert int((~paged.isnan()).sum()) == B * N * G * E  # and nothing else


def test_page_sizes_are_checked() -> None:
    case = Case(1, 1, 2, 1, 8, torch.float32, norms=False)
    head = (case.qkv_RX, case.positions_BN, case.prefix_B, *tables(8))
    pages = torch.zeros(4, 1, 24, 8), torch.zeros(4, 1, 24, 8)
    with pytest.raises(ValueError, match="pages of 24 rows"):
        ops.rope_append(*head, *pages, case.q_BNHE, block_table_BT=i32([[0, 1]]))
    with pytest.raises(ValueError, match="block_table_BT: expected shape"):
        ops.rope_append(*head, *pages, case.q_BNHE, block_table_BT=i32([[0], [1]]))
