"""Acceptance length of a drafter in training: rounds simulated on held-out texts by teacher forcing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..tree import DEFAULT_CANDIDATES, TreeSpec
from .batch import Batch, collate
from .data import Text
from .families import Trainee
from .features import Features


@dataclass(frozen=True)
class Acceptance:
    """What the rounds of a run would have accepted.

    Attributes:
        tau: tokens per round, the target's own included, by tree name.
        accuracy: share of places whose token is the best candidate, by depth.
        covered: share of places whose token is among the candidates, by depth.
    """

    tau: dict[str, float]
    accuracy: list[float]
    covered: list[float]


def default_trees(k: int, candidates: int = DEFAULT_CANDIDATES) -> list[TreeSpec]:
    """The chain and best-first trees of 8 and 16 nodes."""
    trees = [TreeSpec.chain(k)]
    return (
        trees if candidates < 2 or k < 2 else trees + [TreeSpec.best_first(k, nodes, candidates) for nodes in (8, 16)]
    )


@torch.no_grad()
def evaluate(
    trainee: Trainee, features: Features, texts: Sequence[tuple[int, Text]], trees: Sequence[TreeSpec]
) -> Acceptance:
    """Walk through each answer round by round: every round accepts what its tree holds of the tokens that came.

    Args:
        texts: (index in `features`, text) pairs.
        trees: all of at most the trained K depths.
    """
    K, C = trainee.rule.masks + 1, max(tree.candidates for tree in trees)
    rounds = dict.fromkeys((tree.name for tree in trees), 0)
    tokens, places_K = 0, torch.zeros(K)
    best_K, covered_K = torch.zeros(K), torch.zeros(K)
    for index, text in texts:
        batch = collate([(features[index], text.prompt)], trainee.rule.whole).to(trainee.device)
        ids_AKC, scores_AKC, wanted_AK = _candidates(trainee, batch, text, C)
        tokens += text.answer
        hits_AKC = (ids_AKC == wanted_AK[..., None]) & (wanted_AK >= 0)[..., None]
        places_K += (wanted_AK >= 0).sum(0).cpu()
        best_K += hits_AKC[:, :, 0].sum(0).cpu()
        covered_K += hits_AKC.any(2).sum(0).cpu()
        for tree in trees:
            rounds[tree.name] += _rounds(_accepted(ids_AKC, scores_AKC, wanted_AK, tree).tolist())
    places_K = places_K.clamp(min=1)
    tau = {name: tokens / max(count, 1) for name, count in rounds.items()}
    return Acceptance(tau, (best_K / places_K).tolist(), (covered_K / places_K).tolist())


def _candidates(trainee: Trainee, batch: Batch, text: Text, C: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and scores [A, K, C] of the drafts of tokens prompt + a + 0..K-1, and the tokens that came (-1: none).

    Where no row stands behind a place, the ids are -1.
    """
    A, K, lead = text.answer, trainee.rule.masks + 1, trainee.rule.lead
    device, rows = trainee.device, batch.layout.rows
    hidden_RM = trainee.hidden(batch)
    place_R = rows.anchor + lead - text.prompt  # of the first token its group drafts, among the answer's
    wanted = ((place_R >= 0) & (place_R < A)).nonzero()[:, 0]
    ids_RC = torch.full((len(wanted), C), -1, dtype=torch.int32, device=device)
    scores_RC = torch.zeros(len(wanted), C, device=device)
    head_DM = trainee.head().to(hidden_RM.dtype)
    id_map_D = None if trainee.draft_ids_D is None else trainee.draft_ids_D.to(torch.int32)
    ops.head_top_k(hidden_RM[wanted].contiguous(), head_DM, ids_RC, scores_RC, id_map_D=id_map_D)
    ids_AKC = torch.full((A, K, C), -1, dtype=torch.int32, device=device)
    scores_AKC = torch.full((A, K, C), -torch.inf, device=device)
    at = (place_R[wanted], rows.depth[wanted])
    ids_AKC[at], scores_AKC[at] = ids_RC, scores_RC
    answer_A = torch.tensor([*text.ids[text.prompt :], *[-1] * (K - 1)], device=device)
    return ids_AKC, scores_AKC, answer_A.unfold(0, K, 1)


def _accepted(ids_AKC: Tensor, scores_AKC: Tensor, wanted_AK: Tensor, tree: TreeSpec) -> Tensor:
    """[A] how many of the tokens that came stand on a path of each place's tree."""
    (A, _, _), N, device = ids_AKC.shape, tree.nodes, ids_AKC.device
    ids_AKC, scores_AKC = (x[:, : tree.k, : tree.candidates].contiguous() for x in (ids_AKC, scores_AKC))
    ids_AN, parent_AN, depth_AN, positions_AN = (torch.zeros(A, N, dtype=torch.int32, device=device) for _ in range(4))
    words_AN = torch.zeros(A, N, dtype=torch.int64, device=device)
    nothing_A = torch.zeros(A, dtype=torch.int32, device=device)
    ops.build_tree(
        ids_AKC, scores_AKC, nothing_A, nothing_A + 1,
        ids_AN, parent_AN, depth_AN, words_AN, positions_AN,
        prefix_B=nothing_A.clone(), template=tree.template(device),
    )  # fmt: skip
    node_A, count_A = torch.zeros(A, dtype=torch.int64, device=device), torch.zeros(A, dtype=torch.int64, device=device)
    for depth in range(tree.k):
        child_AN = (parent_AN == node_A[:, None]) & (depth_AN == depth + 1) & (ids_AN == wanted_AK[:, depth, None])
        child_AN &= (count_A == depth)[:, None] & (wanted_AK[:, depth] >= 0)[:, None]
        found_A = child_AN.any(1)
        node_A = torch.where(found_A, child_AN.int().argmax(1), node_A)
        count_A += found_A
    return count_A


def _rounds(accepted: Sequence[int]) -> int:
    """Rounds it takes to write all tokens, given how many drafts a round that starts at each place accepts."""
    place = rounds = 0
    while place < len(accepted):
        place += accepted[place] + 1
        rounds += 1
    return rounds
