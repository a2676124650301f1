"""draft_forward: its definition against one layer written out in fp64, and what fits the one launch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY
from pspec_rt.ops.draft_forward import DraftHead, draft_forward_misfit
from tests.draft_case import DraftCase, draft_case


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def turn(x_HE: Tensor, position: int, case: DraftCase) -> Tensor:
    first, second = x_HE.chunk(2, dim=1)
    cos, sin = case.head.cos_SE[position].double(), case.head.sin_SE[position].double()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=1)


def written_out(case: DraftCase, b: int) -> Tensor:
    """[K, D] logits of a slot's rows that predict, in fp64."""
    head = dataclasses.replace(
        case.head, **{k: v.double() for k, v in vars(case.head).items() if isinstance(v, Tensor) and v.dim() == 2}
    )
    (G, E), N, prefix = (case.k_BGSE.shape[1], case.k_BGSE.shape[3]), case.positions_BN.shape[1], int(case.prefix_B[b])
    embedded = head.table_VZ[case.ids_BP[b].clamp(min=0).long()]
    x_NM = torch.cat([embedded, case.features_BPF[b].double()], 1) @ head.fc_MW.T
    x_NM = torch.cat([x_NM, case.mask_inputs_JM.double()])
    H = head.o_MO.shape[1] // E
    qkv = (norm(x_NM, head.input_norm_M) @ head.qkv_XM.T).unflatten(1, (-1, E))
    turned = [turn(qkv[n, : H + G], int(case.positions_BN[b, n]), case) for n in range(N)]
    attn = torch.zeros(N, H, E, dtype=torch.float64)
    for n in range(N):
        seen = [i for i in range(N) if int(case.words_BN[b, n]) >> i & 1]
        for h in range(H):
            g = h // (H // G)
            keys = torch.cat([case.k_BGSE[b, g, :prefix].double(), *(turned[i][H + g][None] for i in seen)])
            values = torch.cat([case.v_BGSE[b, g, :prefix].double(), *(qkv[i, H + G + g][None] for i in seen)])
            attn[n, h] = (keys @ turned[n][h] * E**-0.5).softmax(0) @ values
    x_NM = x_NM + attn.flatten(1) @ head.o_MO.T
    gate, up = (norm(x_NM, head.post_norm_M) @ head.gate_up_2IM.T).chunk(2, dim=1)
    x_NM = x_NM + (F.silu(gate) * up) @ head.down_MI.T
    return norm(x_NM, head.norm_M)[case.take_BK[b].long()] @ head.head_DM.T


@pytest.mark.parametrize("E, H, G", [(64, 4, 2), (128, 2, 1)])
def test_formula(E: int, H: int, G: int) -> None:
    case = draft_case(B=2, K=3, prefixes=[0, 21], E=E, H=H, G=G, dtype=torch.float32)
    expected_RD = torch.cat([written_out(case, b) for b in range(2)]).log_softmax(1)
    ids_RC, scores_RC = case.outputs()
    ops.draft_forward(*case.arguments(), ids_RC, scores_RC)
    torch.testing.assert_close(scores_RC.double(), expected_RD.topk(case.candidates).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(expected_RD.gather(1, ids_RC.long()), scores_RC.double(), rtol=1e-4, atol=1e-4)


def test_noise_and_reduced_vocabulary() -> None:
    """The ranking arguments reach the head: scores are log-softmax of logits / T + noise, ids go through the map."""
    case = draft_case(B=1, K=3, prefixes=[9], sampled=True, dtype=torch.float32)
    case.head = dataclasses.replace(case.head, fc_bias_M=None)
    T_R1, noise_RV = (
        case.sampling["temperature_R"][:, None],
        case.sampling["noise_QV"][case.sampling["noise_row_R"].long()],
    )
    id_map_D = case.sampling["id_map_D"].long()
    logits_RD = written_out(case, 0)
    values_RD = torch.where(T_R1 > 0, logits_RD / T_R1.clamp(min=0.1) + noise_RV[:, id_map_D], logits_RD)
    ids_RC, scores_RC = case.outputs()
    ops.draft_forward(*case.arguments(), ids_RC, scores_RC, **case.sampling)
    best = values_RD.log_softmax(1).topk(case.candidates)
    torch.testing.assert_close(scores_RC.double(), best.values, rtol=1e-4, atol=1e-4)
    assert torch.equal(ids_RC.long(), id_map_D[best.indices])


def test_shapes_are_checked() -> None:
    case = draft_case(B=1, K=3, prefixes=[9])
    ids_RC, scores_RC = case.outputs()
    with pytest.raises(ValueError, match="out_scores_RC: expected shape"):
        ops.draft_forward(*case.arguments(), ids_RC, scores_RC[:, 1:])
    case.take_BK = case.take_BK.long()
    with pytest.raises(ValueError, match="take_BK: expected dtype torch.int32"):
        ops.draft_forward(*case.arguments(), ids_RC, scores_RC)


def test_what_does_not_fit_one_launch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    case = draft_case(B=1, K=3, prefixes=[9])

    def misfit(head: DraftHead = case.head, B: int = 1, N: int = 6, C: int = 4, E: int = 64) -> str | None:
        return draft_forward_misfit(head, B, N, C, torch.empty(1, 2, 4, E, dtype=torch.bfloat16))

    on_cpu = draft_forward_misfit(case.head, 1, 6, 4, case.k_BGSE, "cpu")
    assert on_cpu == "op draft_forward runs on backend ref"
    monkeypatch.setattr(REGISTRY["draft_forward"], "backend", lambda _: "cuda")
    assert misfit() is None
    assert "at most 64 rows" in (misfit(B=11) or "")
    assert "at most 64 rows, 16 candidates" in (misfit(C=17) or "")
    assert "heads of 96" in (misfit(E=96) or "")
    assert misfit(dataclasses.replace(case.head, head_DM=case.head.head_DM.float())) == "its weights are not bf16"
