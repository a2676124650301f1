"""Int8 weights: packing, and the ops that read them: the same bits on every instruction set, thread count and ref."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY, native
from pspec_rt.quantize import (
    DEPTH,
    LIMIT,
    TILE,
    WIDE_LIMIT,
    ZERO,
    Int8Weight,
    first_rows,
    quantize,
    quantize_activations,
    select_rows,
)
from tests.ops.cases import assert_rows_independent, i32, ref_of, same_bits, set_threads

BF16, FP32 = torch.bfloat16, torch.float32
ISAS = native.build_info()["isas"] if native.available else []
SHAPES = ((1, 1), (37, 33), (64, 16), (65, 48), (200, 130))  # I, O


@pytest.fixture(params=ISAS or [pytest.param("", marks=pytest.mark.skip(reason="pspec_rt._C is not built"))])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Native kernels of each instruction set in turn."""
    native.set_isa(request.param)
    yield request.param
    native.set_isa("")


def weights(O: int, I: int, a8: bool = False) -> Int8Weight:
    """Of rows and groups of very different sizes, with some groups of zeros."""
    w_OI = torch.randn(O, I) * torch.exp(2 * torch.randn(O, 1))
    w_OI[::3, : I // 2] = 0
    return quantize(w_OI, a8)


def inputs(R: int, I: int, dtype: torch.dtype = FP32) -> Tensor:
    x_RI = torch.randn(R, I) * torch.exp(torch.randn(R, 1))
    x_RI[::5, I // 2 :] = 0
    return x_RI.to(dtype)


def linear(x_RI: Tensor, w_OI: Int8Weight, dtype: torch.dtype = FP32, bias_O: Tensor | None = None) -> Tensor:
    out_RO = torch.full((x_RI.shape[0], w_OI.O), float("nan"), dtype=dtype)
    ops.linear(x_RI, w_OI, out_RO, bias_O=bias_O)
    return out_RO


def defined(x_RI: Tensor, w_OI: Int8Weight, dtype: torch.dtype = FP32, bias_O: Tensor | None = None) -> Tensor:
    out_RO = torch.empty(x_RI.shape[0], w_OI.O, dtype=dtype)
    ref_of("linear")(x_RI, w_OI, out_RO, bias_O=bias_O)
    return out_RO


# -- packing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("I", "O"), SHAPES)
def test_weights_are_off_by_half_a_step_at_most(I: int, O: int) -> None:
    w_OI = torch.randn(O, I)
    w_OI[0] = 0
    packed = quantize(w_OI)
    assert packed.shape == (O, I) and packed.nbytes == -(-O // 16) * -(-I // 64) * 1088
    _, scale_OG = packed.unpack()
    step_OI = scale_OG.repeat_interleave(DEPTH, 1)[:, :I]
    assert ((packed.rows() - w_OI).abs() <= 0.5001 * step_OI).all()
    assert torch.equal(packed.rows()[0], torch.zeros(I))


def test_the_largest_of_a_group_is_exact() -> None:
    w_OI = torch.randn(20, 128)
    rows_OGK, w_OGK = (x.unflatten(1, (2, 64)) for x in (quantize(w_OI).rows(), w_OI))
    at_OG1 = w_OGK.abs().argmax(2, keepdim=True)
    torch.testing.assert_close(rows_OGK.gather(2, at_OG1), w_OGK.gather(2, at_OG1), rtol=2e-7, atol=0)


def test_a_tile_lies_as_the_kernels_read_it() -> None:
    """[quads of inputs][16 rows][4] bytes, each the integer + 128, then the scales."""
    w_OI = torch.randint(-LIMIT, LIMIT + 1, (30, 130)).float()
    w_OI[:, ::64] = LIMIT  # so that scales are 1
    data = quantize(w_OI).data_OGT
    assert data.shape == (2, 3, 1088)
    for o, i in ((0, 0), (5, 3), (17, 64), (29, 129), (16, 77)):
        tile, k = data[o // 16, i // 64], i % 64
        assert tile[k // 4 * 64 + o % 16 * 4 + k % 4] == w_OI[o, i] + ZERO
        assert tile[TILE + o % 16 * 4 : TILE + o % 16 * 4 + 4].view(FP32) == 1
    padding = data[1, 2, :TILE].view(16, 16, 4)
    assert (padding[1:] == ZERO).all() and (padding[:, 14:] == ZERO).all()


def test_rows_are_taken_without_rounding_again() -> None:
    packed, ids_D = weights(75, 100), torch.tensor([3, 0, 74, 17, 17])
    assert torch.equal(packed.rows(ids_D), packed.rows()[ids_D])
    assert torch.equal(select_rows(packed, ids_D).rows(), packed.rows()[ids_D])
    for count in (1, 16, 33, 75, 200):
        assert torch.equal(first_rows(packed, count).rows(), packed.rows()[:count])
    assert first_rows(packed, 33).data_ptr() == packed.data_ptr()
    whole = torch.randn(9, 4)
    assert torch.equal(first_rows(whole, 3), whole[:3]) and torch.equal(select_rows(whole, i32([4])), whole[4:5])


def test_numbers_too_small_to_divide_by_count_as_zero() -> None:
    tiny = torch.full((1, 64), 1e-40)
    assert torch.equal(quantize(tiny).rows(), torch.zeros(1, 64))
    q_RGK, scale_RG = quantize_activations(tiny, a8=False)
    assert not q_RGK.any() and not scale_RG.any()


@pytest.mark.parametrize("a8", [False, True])
def test_activations_keep_their_bits(a8: bool) -> None:
    """16 bits hold a bf16 number within a factor 64 of its group's largest to half a unit of its own last place."""
    x_RI = inputs(8, 192, BF16)
    q_RGK, scale_RG = quantize_activations(x_RI, a8)
    limit = LIMIT if a8 else WIDE_LIMIT
    assert q_RGK.abs().max() == limit
    error_RI = ((q_RGK * scale_RG[:, :, None]).flatten(1) - x_RI.float()).abs()
    largest_RI = x_RI.float().unflatten(1, (-1, 64)).abs().amax(2).repeat_interleave(64, 1)
    assert (error_RI <= 0.501 / limit * largest_RI).all()
    if not a8:
        near_RI = x_RI.float().abs() > largest_RI / 64
        assert (error_RI <= 2.0**-9 * x_RI.float().abs())[near_RI].all()


# -- linear ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a8", [False, True])
@pytest.mark.parametrize("R", [1, 2, 3, 4, 5, 8, 9, 16, 17, 35, 130])
def test_linear_gives_the_bits_of_ref(isa: str, R: int, a8: bool) -> None:
    for I, O in SHAPES:
        w_OI = weights(O, I, a8)
        for dtype in (BF16, FP32):
            x_RI, bias_O = inputs(R, I, dtype), torch.randn(O).to(dtype)
            assert same_bits(linear(x_RI, w_OI), defined(x_RI, w_OI)), (I, O, dtype)
            expected = defined(x_RI, w_OI, dtype, bias_O)
            assert same_bits(linear(x_RI, w_OI, dtype, bias_O), expected), (I, O, dtype)


def test_linear_is_near_the_exact_product(isa: str) -> None:
    """Of the rounded weights: activations add less than bf16 would, a8 about a hundredth."""
    x_RI, w_OI = inputs(7, 300), torch.randn(50, 300)
    for a8, tolerance in ((False, 2e-5), (True, 6e-3)):
        packed = quantize(w_OI, a8)
        exact_RO = x_RI.double() @ packed.rows().double().T
        scale_RO = x_RI.double().abs() @ packed.rows().double().abs().T
        assert ((linear(x_RI, packed) - exact_RO).abs() <= tolerance * scale_RO + 1e-30).all()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("a8", [False, True])
def test_linear_rows_are_independent(isa: str, a8: bool) -> None:
    w_OI, x_RI = weights(100, 200, a8), inputs(65, 200, BF16)
    assert_rows_independent(lambda rows: linear(x_RI[rows].clone(), w_OI), rows=65)


def test_linear_columns_are_independent(isa: str) -> None:
    w_OI, x_RI = weights(150, 70), inputs(9, 70)
    whole_RO = linear(x_RI, w_OI)
    for count in (1, 17, 64, 149):
        assert same_bits(linear(x_RI, first_rows(w_OI, count)), whole_RO[:, :count])


@pytest.mark.parametrize("a8", [False, True])
@pytest.mark.parametrize("R", [1, 6])
def test_linear_of_numbers_at_the_edge(isa: str, R: int, a8: bool) -> None:
    """NaN and infinities make their row NaN and no other; huge, tiny and zero inputs give what ref gives."""
    w_OI = weights(40, 150, a8)
    rows = torch.randn(6, 150)
    rows[0, 70], rows[1, 149], rows[2, 0] = torch.nan, torch.inf, -torch.inf
    rows[3] *= 1e33
    rows[4] *= 1e-38
    rows[5] = 0
    for first in range(0, 6, R):
        x_RI = rows[first : first + R].clone()
        out_RO, expected_RO = linear(x_RI, w_OI), defined(x_RI, w_OI)
        assert torch.equal(out_RO.isnan(), expected_RO.isnan())
        assert torch.equal(out_RO.nan_to_num(), expected_RO.nan_to_num())
        assert out_RO.isnan().all(dim=1).tolist() == [first + r < 3 for r in range(R)]


@pytest.mark.parametrize("O", [16, 33, 48])
@pytest.mark.parametrize("R", [1, 5, 20])
def test_linear_with_all_options_is_the_separate_ops(isa: str, R: int, O: int) -> None:
    """The up half of the weights may begin within a tile."""
    I, eps = 70, 1e-5
    w_OI, norm_I, x_RI, bias_O = weights(2 * O, I), torch.randn(I).to(BF16), inputs(R, I, BF16), torch.randn(2 * O)
    bias_O, start_RO = bias_O.to(BF16), torch.randn(R, O).to(BF16)
    fused_RO, normed_RI = start_RO.clone(), torch.empty_like(x_RI)
    ops.linear(x_RI, w_OI, fused_RO, bias_O=bias_O, norm_I=norm_I, eps=eps, gated=True, add=True)
    ops.add_rms_norm(None, x_RI.clone(), norm_I, eps, normed_RI)
    gated_RO = torch.empty_like(start_RO)
    ops.silu_mul(linear(normed_RI, w_OI, BF16, bias_O), gated_RO)
    assert same_bits(fused_RO, start_RO + gated_RO)


def test_linear_in_prefill_is_the_same(isa: str) -> None:
    w_OI, x_RI, out_RO = weights(40, 100), inputs(33, 100, BF16), torch.empty(33, 40, dtype=BF16)
    ops.linear(x_RI, w_OI, out_RO, exact=False)
    assert same_bits(out_RO, linear(x_RI, w_OI, BF16))


# -- the other ops -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("a8", [False, True])
def test_head_top_k_has_the_logits_of_linear(isa: str, a8: bool) -> None:
    w_DM, x_RM = first_rows(weights(700, 100, a8), 650), inputs(5, 100, BF16)
    ids_RC, scores_RC = torch.empty(5, 8, dtype=torch.int32), torch.empty(5, 8)
    for threads in (1, 2):
        set_threads(threads)
        ops.head_top_k(x_RM, w_DM, ids_RC, scores_RC)
        logits_RD = linear(x_RM, w_DM)
        best_RC = logits_RD.sort(dim=1, descending=True, stable=True)
        assert torch.equal(ids_RC.long(), best_RC.indices[:, :8])
        expected_RC = logits_RD.log_softmax(1).gather(1, ids_RC.long())
        torch.testing.assert_close(scores_RC, expected_RC, rtol=1e-5, atol=1e-4)


def test_head_top_k_is_that_of_ref(isa: str) -> None:
    w_DM, x_RM = weights(300, 130), inputs(6, 130)
    options = {
        "temperature_R": torch.tensor([0.0, 0.5, 1.0, 2.0, 0.7, 0.0]),
        "noise_QV": torch.randn(3, 400),
        "noise_row_R": i32([0, 1, 2, 0, 1, 2]),
        "id_map_D": torch.arange(50, 350, dtype=torch.int32),
    }
    results = []
    for head_top_k in (ops.head_top_k, ref_of("head_top_k")):
        ids_RC, scores_RC = torch.empty(6, 4, dtype=torch.int32), torch.empty(6, 4)
        head_top_k(x_RM, w_DM, ids_RC, scores_RC, **options)
        results.append((ids_RC, scores_RC))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("embed", [ops.embed, ref_of("embed")], ids=["chosen", "ref"])
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_embed_rounds_once(embed: Callable[..., None], dtype: torch.dtype) -> None:
    for V, M in ((5, 1), (40, 64), (75, 100)):
        table_VM, ids_R = weights(V, M), i32([V - 1, 0, -1, 3])
        out_RM = torch.empty(4, M, dtype=dtype)
        embed(ids_R, table_VM, out_RM)
        assert same_bits(out_RM, table_VM.rows()[ids_R.long().clamp(min=0)].to(dtype))


@pytest.mark.parametrize("P", [3, 70], ids=["native", "prefill"])
def test_draft_inputs_reads_an_int8_table(P: int) -> None:
    B, F, J, M, V, E = 2, 40, 2, 24, 50, 70
    table_VE, ids_BP = weights(V, E), torch.randint(-1, V, (B, P), dtype=torch.int32)
    features_BPF, masks_JM, fc_MW = torch.randn(B, P, F), torch.randn(J, M), torch.randn(M, E + F)
    options = {"bias_M": torch.randn(M), "anchor_map_MW": torch.randn(M, E + F)}
    results = []
    for table in (table_VE, table_VE.rows()):
        out_BNM = torch.empty(B, P + J, M)
        ops.draft_inputs(ids_BP, features_BPF, i32([1, 3]), masks_JM, fc_MW, out_BNM, table_VM=table, **options)
        results.append(out_BNM)
    assert same_bits(*results)


@pytest.mark.parametrize("name", ["linear", "head_top_k", "embed", "draft_inputs"])
def test_other_backends_refuse_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY[name]._chosen, "cpu", lambda *args, **kwargs: None)
    w_OI, x_RI, i_R = weights(20, 30), torch.zeros(2, 30), i32([0, 1])
    calls = {
        "linear": lambda: ops.linear(x_RI, w_OI, torch.zeros(2, 20)),
        "head_top_k": lambda: ops.head_top_k(x_RI, w_OI, i_R[:, None], None),
        "embed": lambda: ops.embed(i_R, w_OI, x_RI),
        "draft_inputs": lambda: ops.draft_inputs(
            i_R[:, None], torch.zeros(2, 1, 5), i_R, torch.zeros(0, 7), torch.zeros(7, 35), torch.zeros(2, 1, 7),
            table_VM=w_OI,
        ),
    }  # fmt: skip
    with pytest.raises(ValueError, match="int8 weights run on CPU only"):
        calls[name]()


def test_wrong_arguments_are_named() -> None:
    w_OI = weights(20, 30)
    with pytest.raises(ValueError, match=r"w_OI.*\(20, 31\)"):
        ops.linear(torch.zeros(2, 31), w_OI, torch.zeros(2, 20))
    with pytest.raises(ValueError, match="out_RM.*dtype"):
        ops.embed(i32([0]), w_OI, torch.zeros(1, 30, dtype=torch.float64))
