"""Kernels on the GPU against fp64 and the definitions, and bit for bit across row counts, at sizes of real models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from tests.ops.cases import i32, ref_of, same_bits, words_of

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16
ROWS = (1, 2, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200, 1024)
# [N, K] of Llama-3.1-8B and SmolLM2-135M, and one that no tile divides.
WEIGHTS = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (960, 576), (3072, 576), (1000, 200)]


def bf16(*shape: int) -> Tensor:
    return torch.randn(*shape).to(BF16)


def linear(x_RI: Tensor, w_OI: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    out_RO = torch.empty(x_RI.shape[0], w_OI.shape[0], dtype=dtype)
    ops.linear(x_RI, w_OI, out_RO)
    return out_RO


@pytest.mark.parametrize("N, K", WEIGHTS)
def test_linear_and_row_counts(N: int, K: int) -> None:
    """Within the error of fp32 sums of fp64's result; a row has the same bits in every row count and place."""
    x_RI, w_OI = bf16(1024, K), bf16(N, K) / K**0.5
    whole_RO = linear(x_RI, w_OI)
    exact_RO = x_RI[:64].double() @ w_OI.double().T
    scale_RO = x_RI[:64].double().abs() @ w_OI.double().abs().T
    assert ((whole_RO[:64] - exact_RO).abs() <= 1e-5 * scale_RO).all()
    rounded_RO = linear(x_RI, w_OI, BF16)
    for R in ROWS:
        assert same_bits(linear(x_RI[:R], w_OI), whole_RO[:R]), f"{R} rows"
        assert same_bits(linear(x_RI[-R:], w_OI), whole_RO[-R:]), f"the last {R} rows"
        assert same_bits(linear(x_RI[:R], w_OI, BF16), rounded_RO[:R]), f"{R} rows in bf16"


def head(x_RM: Tensor, w_DM: Tensor, C: int, **options: Tensor) -> tuple[Tensor, Tensor]:
    ids_RC, scores_RC = torch.empty(x_RM.shape[0], C, dtype=torch.int32), torch.empty(x_RM.shape[0], C)
    ops.head_top_k(x_RM, w_DM, ids_RC, scores_RC, **options)
    return ids_RC, scores_RC


@pytest.mark.parametrize("D, M", [(128256, 4096), (32000, 4096), (49152, 576)])
@pytest.mark.parametrize("C", [1, 8, 16])
def test_head_top_k(D: int, M: int, C: int) -> None:
    """The best of linear's own logits, greedy and with noise, whatever rows ride along."""
    R = 65
    x_RM, w_DM = bf16(R, M), bf16(D, M) / M**0.5
    options = {
        "temperature_R": torch.rand(R) - 0.3,
        "noise_QV": torch.randn(R, D),
        "noise_row_R": torch.randperm(R).int(),
    }
    options["temperature_R"].clamp_(min=0)
    logits_RD = linear(x_RM, w_DM)
    T_R1 = options["temperature_R"][:, None]
    noisy_RD = logits_RD / torch.where(T_R1 > 0, T_R1, 1) + options["noise_QV"][options["noise_row_R"].long()]
    for given, values_RD in (({}, logits_RD), (options, torch.where(T_R1 > 0, noisy_RD, logits_RD))):
        ids_RC, scores_RC = head(x_RM, w_DM, C, **given)
        best_RC = values_RD.gather(1, ids_RC.long())
        assert torch.equal(best_RC, values_RD.topk(C).values)
        norm_R1 = values_RD.double().logsumexp(1, keepdim=True)
        torch.testing.assert_close(scores_RC.double(), best_RC - norm_R1, rtol=1e-5, atol=1e-4)
        for rows in (slice(0, 1), slice(3, 20), slice(0, 64)):
            part = {name: x if name == "noise_QV" else x[rows] for name, x in given.items()}
            alone = head(x_RM[rows], w_DM, C, **part)
            assert torch.equal(alone[0], ids_RC[rows]) and same_bits(alone[1], scores_RC[rows])


def test_gumbel_noise_has_the_bits_of_the_definition() -> None:
    seed_B, first_B = torch.randint(-(2**62), 2**62, (3,)), torch.randint(0, 2**31 - 99, (3,)).int()
    out_BPV, expected_BPV = torch.empty(3, 9, 128256), torch.empty(3, 9, 128256, device="cpu")
    ops.gumbel_noise(seed_B, first_B, out_BPV)
    with torch.device("cpu"):
        ref_of("gumbel_noise")(seed_B.cpu(), first_B.cpu(), expected_BPV)
    assert same_bits(out_BPV.cpu(), expected_BPV)


@pytest.mark.parametrize("V", [49152, 128256, 1 << 18])
def test_select_tokens(V: int) -> None:
    """As the definition in fp64 says, but where a filter's limit is within rounding of the decision."""
    R = 24
    logits_RV = torch.randn(R, V) * torch.tensor([0.5, 3.0, 8.0])[torch.arange(R) % 3, None]
    options = {
        "temperature_R": torch.tensor([0.0, 0.7, 1.0, 1.3])[torch.arange(R) % 4],
        "top_k_R": i32([0, 50, 0, 1000, 1])[torch.arange(R) % 5],
        "top_p_R": torch.tensor([1.0, 0.9, 0.5, 0.999])[torch.arange(R) // 4 % 4],
        "min_p_R": torch.tensor([0.0, 0.02])[torch.arange(R) // 2 % 2],
        "noise_QV": torch.empty(1, R, V),
        "noise_row_R": torch.randperm(R).int(),
    }
    ops.gumbel_noise(torch.tensor([5]), i32([0]), options["noise_QV"])
    options["noise_QV"] = options["noise_QV"][0]

    def select(rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = logits_RV[rows].shape[0]
        ids_R, logprob_R = torch.empty(count, dtype=torch.int32), torch.empty(count)
        top_ids_RT, top_logprobs_RT = torch.empty(count, 20, dtype=torch.int32), torch.empty(count, 20)
        part = {name: x if name == "noise_QV" else x[rows] for name, x in options.items()}
        outputs = {"out_logprob_R": logprob_R, "out_top_ids_RT": top_ids_RT, "out_top_logprobs_RT": top_logprobs_RT}
        ops.select_tokens(logits_RV[rows], ids_R, **part, **outputs)
        return ids_R, logprob_R, top_ids_RT, top_logprobs_RT

    whole = select(slice(None))
    for rows in (slice(0, 1), slice(5, 9), slice(R - 1, R)):
        assert all(torch.equal(a, b[rows]) for a, b in zip(select(rows), whole, strict=True))
    logprob_RV = logits_RV.double().log_softmax(1)
    torch.testing.assert_close(whole[3].double(), logprob_RV.topk(20).values, rtol=1e-5, atol=1e-4)
    assert torch.equal(logits_RV.gather(1, whole[2].long()), logits_RV.topk(20).values)
    chosen_R1 = whole[0][:, None].long()
    torch.testing.assert_close(whole[1].double(), logprob_RV.gather(1, chosen_R1)[:, 0], rtol=1e-5, atol=1e-4)
    for r in range(R):
        assert whole[0][r].item() in expected_ids(r, logits_RV[r], options)


def expected_ids(r: int, logits_V: Tensor, options: dict[str, Tensor]) -> set[int]:
    """The token the filters leave, in fp64, with limits a little lower, as they are, and a little higher."""
    T, k, top_p, min_p = (options[f"{name}_R"][r].item() for name in ("temperature", "top_k", "top_p", "min_p"))
    if T == 0:
        return {int(logits_V.argmax())}
    z_V = logits_V / torch.tensor(T)
    ranked_V, id_V = torch.sort(z_V, descending=True, stable=True)
    kept_V = ranked_V >= ranked_V[min(int(k), len(z_V)) - 1] if k > 0 else torch.ones_like(ranked_V, dtype=torch.bool)
    p_V = torch.where(kept_V, ranked_V.double(), -torch.inf).softmax(0)
    before_V = p_V.cumsum(0) - p_V
    found = set()
    for slack in (-1e-5, 0.0, 1e-5):
        keep_V = kept_V & ((before_V < top_p + slack) | (top_p >= 1)) & (p_V >= min_p * (1 + slack) * p_V[0])
        noisy_V = z_V[id_V] + options["noise_QV"][options["noise_row_R"][r].long()][id_V]
        found.add(int(id_V[torch.where(keep_V, noisy_V, -torch.inf).argmax()]))
    return found


@pytest.mark.parametrize("H, G, E", [(32, 8, 128), (32, 8, 64), (9, 3, 64), (16, 16, 96), (8, 1, 256)])
@pytest.mark.parametrize("window", [0, 300])
def test_tree_attention(H: int, G: int, E: int, window: int) -> None:
    """Against fp64, ragged prefixes, rows past them NaN; every slot alone has the same bits."""
    B, N, S = 3, 17, 2200
    prefix_B, q_BNHE = i32([0, 300, 2100]), bf16(B, N, H, E)
    k_BGSE, v_BGSE = bf16(B, G, S, E), bf16(B, G, S, E)
    parents = [-1, *((n - 1) // 2 for n in range(1, N))]
    words_BN = torch.tensor([words_of(parents)] * B)
    for b, prefix in enumerate(prefix_B.tolist()):
        k_BGSE[b, :, prefix + N :], v_BGSE[b, :, prefix + N :] = torch.nan, torch.nan

    def attend(b: slice, n: slice) -> Tensor:
        q, words = q_BNHE[b, n].contiguous(), words_BN[b, n].contiguous()
        out = torch.full_like(q, torch.nan)
        ops.tree_attention(q, k_BGSE[b], v_BGSE[b], prefix_B[b], words, out, scale=E**-0.5, window=window)
        return out

    whole_BNHE = attend(slice(None), slice(None))
    for b, prefix in enumerate(prefix_B.tolist()):
        assert same_bits(attend(slice(b, b + 1), slice(None))[0], whole_BNHE[b])
        assert same_bits(attend(slice(b, b + 1), slice(0, 1))[0], whole_BNHE[b, :1])
        for n in (0, 5, N - 1):
            rows = [*range(prefix), *(prefix + i for i in range(N) if words_BN[b, n].item() >> i & 1)]
            rows = rows[-window:] if window else rows
            keys, values = (x[b, :, rows].double().repeat_interleave(H // G, 0) for x in (k_BGSE, v_BGSE))
            weights = (q_BNHE[b, n].double()[:, None] * keys).sum(2).mul(E**-0.5).softmax(1)
            expected_HE = (weights[:, :, None] * values).sum(1)
            torch.testing.assert_close(whole_BNHE[b, n].double(), expected_HE, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("M", [576, 4096])
def test_small_ops_are_as_their_definitions(M: int) -> None:
    """In bf16, within one rounding."""
    R = 65
    x_RM, residual_RM, weight_M = bf16(R, M), bf16(R, M), bf16(M)
    ours, theirs = [residual_RM.clone(), torch.empty_like(x_RM)], [residual_RM.clone(), torch.empty_like(x_RM)]
    ops.add_rms_norm(x_RM, ours[0], weight_M, 1e-5, ours[1])
    ref_of("add_rms_norm")(x_RM, theirs[0], weight_M, 1e-5, theirs[1])
    assert same_bits(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=2**-7, atol=2**-7)
    gate_up_R2I = bf16(R, 2 * M)
    outs = [torch.empty(R, M, dtype=BF16) for _ in range(2)]
    ops.silu_mul(gate_up_R2I, outs[0])
    ref_of("silu_mul")(gate_up_R2I, outs[1])
    torch.testing.assert_close(*outs, rtol=2**-7, atol=2**-7)
    sums = [residual_RM.clone(), residual_RM.clone()]
    ops.silu_add(x_RM, sums[0])
    ref_of("silu_add")(x_RM, sums[1])
    torch.testing.assert_close(*sums, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("size", [1, 65 * 4096 + 3])
def test_cast_has_the_bits_of_the_definition(size: int) -> None:
    for x in (bf16(size), torch.randn(size)):
        for dtype in (BF16, torch.float32):
            out = torch.empty(size, dtype=dtype)
            ops.cast(x, out)
            assert same_bits(out, x.to(dtype))
