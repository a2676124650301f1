"""Every definition runs on tensors without data: no value is read back, no shape or branch depends on one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY
from pspec_rt.ref.draft_forward import DraftHead

B, N, K, P, C, S, M, H, G, E, V, F, Q, T = 2, 5, 3, 4, 2, 16, 8, 4, 2, 6, 11, 8, 10, 2
R = B * N


def f32(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def i32(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.int32, device="meta")


def i64(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.int64, device="meta")


def sampling() -> dict[str, Tensor]:
    return {"temperature_R": f32(R), "noise_QV": f32(Q, V), "noise_row_R": i32(R)}


def filters() -> dict[str, Tensor]:
    return {"top_k_R": i32(R), "top_p_R": f32(R), "min_p_R": f32(R)}


def top() -> dict[str, Tensor]:
    return {"out_logprob_R": f32(R), "out_top_ids_RT": i32(R, T), "out_top_logprobs_RT": f32(R, T)}


def head() -> DraftHead:
    X, I = (H + 2 * G) * E, 10
    return DraftHead(
        f32(M, M + F), None, f32(V, M), f32(M), f32(X, M), f32(M, H * E), f32(M), f32(2 * I, M), f32(M, I), f32(M),
        f32(V, M), f32(S, E // 2), f32(S, E // 2), eps=1e-6,
    )  # fmt: skip


def nodes() -> list[Tensor]:
    return [i32(B, N), i32(B, N), i32(B, N), i64(B, N), i32(B, N)]


CACHE = (B, G, S, E)
CALLS: dict[str, list[Callable[[], None]]] = {
    "embed": [lambda: ops.embed(i32(R), f32(V, M), f32(R, M))],
    "add_rms_norm": [lambda: ops.add_rms_norm(f32(R, M), f32(R, M), f32(M), 1e-6, f32(R, M))],
    "linear": [lambda: ops.linear(f32(R, M), f32(V, M), f32(R, V), bias_O=f32(V))],
    "silu_mul": [lambda: ops.silu_mul(f32(R, 2 * M), f32(R, M))],
    "rope_append": [
        lambda: ops.rope_append(
            f32(R, (H + 2 * G) * E), i32(B, N), i32(B), f32(S, E // 2), f32(S, E // 2), f32(*CACHE), f32(*CACHE),
            f32(B, N, H, E), q_norm_E=f32(E), k_norm_E=f32(E),
        ),
        lambda: ops.rope_append(
            f32(R, (H + 2 * G) * E), i32(B, N), i32(B), f32(S, E // 2), f32(S, E // 2), f32(*CACHE), f32(*CACHE),
            f32(B, N, H, E), block_table_BT=i32(B, 3),
        ),
    ],
    "tree_attention": [
        lambda: ops.tree_attention(
            f32(B, N, H, E), f32(*CACHE), f32(*CACHE), i32(B), i64(B, N), f32(B, N, H, E), scale=1.0, window=3
        )
    ],
    "head_top_k": [
        lambda: ops.head_top_k(f32(R, M), f32(V, M), i32(R, C), None),
        lambda: ops.head_top_k(f32(R, M), f32(6, M), i32(R, C), f32(R, C), id_map_D=i32(6), **sampling()),
    ],
    "select_tokens": [lambda: ops.select_tokens(f32(R, V), i32(R), **sampling(), **filters(), **top())],
    "gumbel_noise": [lambda: ops.gumbel_noise(i64(B), i32(B), f32(B, P, V))],
    "draft_inputs": [
        lambda: ops.draft_inputs(
            i32(B, P), f32(B, P, F), i32(B), f32(2, M), f32(M, M + F), f32(B, P + 2, M),
            table_VM=f32(V, M), bias_M=f32(M), anchor_map_MW=f32(M, M + F),
        )
    ],
    "draft_rows": [
        lambda: ops.draft_rows(
            i32(B, P), i32(B), i32(B), i32(B, N), i32(B, N), i32(B), i64(B, N), i32(B, 2), i32(B, N),
            shift=-1, mask_id=7, vocab=9,
        )
    ],
    "grow_tree": [
        lambda picks_X=picks_X: ops.grow_tree(
            i32(B * 3, C), f32(B * 3, C), i32(B), i64(B, 3), i32(B, 9, C), f32(B, 9, C), i32(B, 9),
            i32(B, 4), i32(B, 4), i64(B, 4), i32(B, 4), i32(B), i32(B), level=1, first=1, shift=-1, picks_X=picks_X,
        )
        for picks_X in (None, i32(4))
    ],
    "prune_tree": [
        lambda picks_N=picks_N: ops.prune_tree(
            i32(B, 9, C), f32(B, 9, C), i32(B, 9), i32(B), i32(B), *nodes(), i32(B), i32(B, N),
            noise_stride=P, picks_N=picks_N,
        )
        for picks_N in (None, i32(N))
    ],
    "cast": [lambda: ops.cast(f32(R, M), f32(R, M).bfloat16())],
    "silu_add": [lambda: ops.silu_add(f32(R, M), f32(R, M))],
    "draft_forward": [
        lambda: ops.draft_forward(
            head(), i32(B, P), f32(B, P, F), f32(2, M), i32(B, P + 2), i32(B), i64(B, P + 2), i32(B, K), f32(*CACHE),
            f32(*CACHE), i32(B * K, C), f32(B * K, C),
        )
    ],
    "gather_features": [lambda: ops.gather_features(f32(R, F), i32(B, P), f32(B, P, F))],
    "store_tap": [lambda: ops.store_tap(f32(R, M), f32(R, 2 * M), M)],
    "move_rows": [lambda: ops.move_rows([f32(9, M), f32(9, M)], i64(2), i32(B, P), i32(B, P))],
    "ngram_draft": [lambda: ops.ngram_draft(i32(B, S), i32(B), i32(B, K, C)[:, :, 0], f32(B, K, C)[:, :, 0])],
    "blend_candidates": [lambda: ops.blend_candidates(i32(B, K), f32(B, K), i32(B, K, C), f32(B, K, C))],
    "build_tree": [
        lambda: ops.build_tree(i32(B, K, C), f32(B, K, C), i32(B), i32(B), *nodes(), prefix_B=i32(B)),
        lambda: ops.build_tree(
            i32(B, K, C), None, i32(B), i32(B), *nodes(), prefix_B=i32(B), noise_row_BN=i32(B, N), noise_stride=P,
            template=(i32(N), i32(N), i32(N), i64(N)),
        ),
    ],
    "accept": [
        lambda: ops.accept(
            *(i32(B, N) for _ in range(3)), i32(B, Q), *(i32(B) for _ in range(4)),
            i32(B, S), i32(B, P), i32(B, P), i32(B),
        )
    ],
    "compact_kv": [lambda: ops.compact_kv(f32(3, 2, *CACHE), i32(B, P), i32(B), i32(B))],
}  # fmt: skip


@pytest.mark.parametrize("op", sorted(REGISTRY))
def test_needs_no_data(op: str) -> None:
    """On the meta device reading a value, or a shape that depends on one, raises."""
    for call in CALLS[op]:
        call()
