"""A random one-layer drafter and one round's inputs, for the tests of draft_forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pspec_rt.ref.draft_forward import DraftHead, draft_forward
from tests.ops.cases import i32, signed


@dataclass
class DraftCase:
    """Arguments of ops.draft_forward."""

    head: DraftHead
    ids_BP: Tensor
    features_BPF: Tensor
    mask_inputs_JM: Tensor
    positions_BN: Tensor
    prefix_B: Tensor
    words_BN: Tensor
    take_BK: Tensor
    k_BGSE: Tensor
    v_BGSE: Tensor
    sampling: dict[str, Tensor]
    candidates: int

    def arguments(self) -> tuple:
        return (
            self.head, self.ids_BP, self.features_BPF, self.mask_inputs_JM, self.positions_BN, self.prefix_B,
            self.words_BN, self.take_BK, self.k_BGSE, self.v_BGSE,
        )  # fmt: skip

    def outputs(self) -> tuple[Tensor, Tensor]:
        R = self.take_BK.numel()
        ids_RC = torch.full((R, self.candidates), -7, dtype=torch.int32, device=self.ids_BP.device)
        return ids_RC, torch.full(ids_RC.shape, torch.nan, device=ids_RC.device)

    def check(self, ids_RC: Tensor, scores_RC: Tensor, expected: tuple[Tensor, Tensor]) -> None:
        """Scores are close, and ids are the same wherever their neighbours' scores are not close."""
        torch.testing.assert_close(scores_RC, expected[1], rtol=2e-2, atol=5e-2)
        gap_RC = torch.full(expected[1].shape, torch.inf, device=ids_RC.device)
        step = (expected[1][:, :-1] - expected[1][:, 1:]).abs()
        gap_RC[:, :-1] = step
        gap_RC[:, 1:] = torch.minimum(gap_RC[:, 1:], step)
        clear_RC = gap_RC > 0.1
        clear_RC[:, -1] = False  # its other neighbour is not known
        assert torch.equal(ids_RC[clear_RC], expected[0][clear_RC])
        assert clear_RC.float().mean() > 0.2, "the case decides nothing"


def run_ref(case: DraftCase) -> tuple[Tensor, Tensor]:
    out = case.outputs()
    draft_forward(*case.arguments(), *out, **case.sampling)
    return out


def draft_case(
    *, B: int, K: int, prefixes: Sequence[int], counts: Sequence[int] | None = None, M: int = 128, H: int = 4,
    G: int = 2, E: int = 64, I: int = 256, D: int = 500, C: int = 5, F: int = 96, V: int = 600, table: bool = True,
    sampled: bool = False, dtype: torch.dtype = torch.bfloat16,
) -> DraftCase:  # fmt: skip
    """`prefixes[b]` rows stand in the cache of slot b; the rest of it is NaN. sampled: noise, and a reduced vocabulary
    (else the whole one of D tokens)."""
    P, J = K + 1, K - 1
    Z, S = M if table else 0, max(prefixes) + 80

    def new(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape) * scale).to(dtype)

    angle_SE = torch.arange(S)[:, None] / 10_000 ** (torch.arange(E // 2) / (E // 2))
    head = DraftHead(
        fc_MW=new(M, Z + F, scale=(Z + F) ** -0.5), fc_bias_M=new(M) if sampled else None,
        table_VZ=new(V, Z) if table else None, input_norm_M=new(M), qkv_XM=new((H + 2 * G) * E, M, scale=M**-0.5),
        o_MO=new(M, H * E, scale=(H * E) ** -0.5), post_norm_M=new(M), gate_up_2IM=new(2 * I, M, scale=M**-0.5),
        down_MI=new(M, I, scale=I**-0.5), norm_M=new(M), head_DM=new(D, M, scale=3 * M**-0.5),
        cos_SE=angle_SE.cos().float(), sin_SE=angle_SE.sin().float(), eps=1e-5,
    )  # fmt: skip
    count_B = i32(counts if counts is not None else [1 + (K * (b + 1)) % P for b in range(B)])
    ids_BP = torch.where(torch.arange(P) < count_B[:, None], torch.randint(0, V, (B, P)), -1).int()
    rows = [_rows(prefix, count, P, J) for prefix, count in zip(prefixes, count_B.tolist(), strict=True)]
    positions_BN, take_BK = (i32([row[i] for row in rows]) for i in (0, 2))
    words_BN = torch.tensor([[signed(word) for word in row[1]] for row in rows])
    caches = [torch.full((B, G, S, E), torch.nan).to(dtype) for _ in "kv"]
    for b, prefix in enumerate(prefixes):
        for cache in caches:
            cache[b, :, :prefix] = new(G, prefix, E)
    sampling: dict[str, Tensor] = {}
    if sampled:
        sampling = {
            "temperature_R": torch.tensor([0.0, 0.7, 1.5])[torch.arange(B * K) % 3], "noise_QV": torch.randn(B * P, V),
            "noise_row_R": torch.randperm(B * P)[: B * K].int(),
            "id_map_D": torch.randperm(V)[:D].sort().values.int(),
        }  # fmt: skip
    features, masks = new(B, P, F), new(J, M)
    place = (positions_BN, i32(list(prefixes)), words_BN, take_BK)
    return DraftCase(head, ids_BP, features, masks, *place, *caches, sampling, C)


def _rows(prefix: int, count: int, P: int, J: int) -> tuple[list[int], list[int], list[int]]:
    """Positions and ancestor words of P + J rows, and the rows that predict: the newest of `count` real ones, and the
    masks behind it, which see all real rows and the masks before them. Padding sees the real ones and itself."""
    real, N = (1 << count) - 1, P + J
    positions = [prefix + n if n < P else prefix + count + n - P for n in range(N)]
    causal = [(2 << n) - 1 & real | 1 << n for n in range(P)]
    masks = [real | (2 << n) - (1 << P) for n in range(P, N)]
    return positions, causal + masks, [count - 1, *range(P, N)]
