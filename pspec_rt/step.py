"""ONE ROUND of decoding: draft -> tree -> verify -> accept -> compact. It touches `state` only.

Dimension letters, used as suffixes of tensor names here and in state, ref, ops and models:

    B slots   N rows (tree nodes) per slot, root included   R = B*N flattened rows   K drafted depths
    P = K+1 path slots   C candidates per depth   V vocabulary   M model width   H query heads   G KV heads
    E head dim   S cache rows per slot   L layers   F width of the tapped features   Q = B*P rows of noise

Every shape follows from the key (B, tree, mode); whatever varies is a tensor. Nothing here reads a value back to the
host, so a round can be captured as it stands. Plain decoding is the same round with N = 1 and no drafter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import ops
from .drafters.base import Drafter
from .models.decoder import Decoder
from .ring import Ring
from .state import DecodeState

Mark = Callable[[str], None]


def decode_round(
    state: DecodeState,
    target: Decoder,
    drafter: Drafter | None,
    mark: Mark = lambda phase: None,
    ring: Ring | None = None,
) -> None:
    """Advance every running slot of `state` by 1..P tokens.

    `mark(phase)` is called at the end of the phases "draft", "verify" and "rest" (for timing). The results are left in
    the state, and published to `ring` if there is one.
    """
    s = state
    if s.mode != "greedy":
        ops.gumbel_noise(s.seed_B, s.length_B, s.noise_BPV)
    if drafter is not None:
        drafter.draft(s)
    mark("draft")

    if drafter is None or not drafter.grows_tree:
        ops.build_tree(
            s.candidate_ids_BKC, s.candidate_scores_BKC, s.bonus_B, s.length_B,
            s.ids_BN, s.parent_BN, s.depth_BN, s.words_BN, s.positions_BN, prefix_B=s.prefix_B,
            noise_row_BN=None if s.mode == "greedy" else s.noise_row_BN, noise_stride=s.shape.P, template=s.template,
        )  # fmt: skip
    hidden_RM = target.forward(s.ids_BN, s.positions_BN, s.prefix_B, s.words_BN, s.cache, s.work, s.features_RF)
    choose_tokens(s, target, hidden_RM)
    mark("verify")
    if s.simulate is not None:
        s.simulate(s)

    ops.accept(
        s.ids_BN, s.parent_BN, s.target_BN, s.stop_ids_BQ, s.limit_B,
        s.length_B, s.finished_B, s.bonus_B, s.tokens_BS, s.path_BP, s.emitted_BP, s.count_B,
        ring=ring,
    )  # fmt: skip
    if s.shape.tree.moves_kv:
        ops.compact_kv(s.cache.kv_L2BGSE, s.path_BP, s.count_B, s.length_B)
    if s.features_RF is not None:
        ops.gather_features(s.features_RF, s.path_BP, s.features_BPF)
    mark("rest")


def choose_tokens(s: DecodeState, target: Decoder, hidden_RM: torch.Tensor) -> None:
    """target_BN[b, n]: the token the target puts after node n, by seeded argmax (the one verification rule)."""
    if s.mode == "greedy":
        ops.head_top_k(hidden_RM, target.head_VM, s.target_BN.view(-1, 1), None)
        return
    # Row of noise of a node of depth d: that of position length + d.
    noise = {"temperature_R": s.temperature_BN.view(-1), "noise_QV": s.noise_QV, "noise_row_R": s.noise_row_BN.view(-1)}
    if s.mode == "noise":
        ops.head_top_k(hidden_RM, target.head_VM, s.target_BN.view(-1, 1), None, **noise)
        return
    ops.linear(hidden_RM, target.head_VM, s.logits_RV)
    ops.select_tokens(
        s.logits_RV, s.target_BN.view(-1),
        top_k_R=s.top_k_BN.view(-1), top_p_R=s.top_p_BN.view(-1), min_p_R=s.min_p_BN.view(-1), **noise,
        out_logprob_R=s.logprob_BN.view(-1),
        out_top_ids_RT=s.top_ids_BNT.flatten(0, 1), out_top_logprobs_RT=s.top_logprobs_BNT.flatten(0, 1),
    )  # fmt: skip
