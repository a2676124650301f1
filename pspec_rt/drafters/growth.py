"""Growth: drafting level by level, where the candidates of a token depend on the path that leads to it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .. import ops
from ..errors import ConfigError
from ..quantize import Weight
from ..state import DecodeState
from ..tree import MAX_NODES, TreeSpec
from .candidates import shared_noise


@dataclass(frozen=True)
class Plan:
    """The rows that each level runs: `widths[d]` of them at depth d, the first being the anchor alone.

    Attributes:
        picks: of a fixed tree, which candidates (row * C + rank) of a level become the next one's rows; else None, the
            best ones do.
        nodes: of a fixed tree, the pool's entry of every node (see `ops.grow_tree`), 0 for the root; else None.
    """

    widths: list[int]
    picks: list[list[int] | None]
    nodes: list[int] | None

    @property
    def firsts(self) -> list[int]:
        """Number of every level's first row among all."""
        return [sum(self.widths[:depth]) for depth in range(len(self.widths))]


def plan_growth(tree: TreeSpec) -> Plan:
    """Which rows to run for a tree; raises ConfigError for more than fit.

    Of a fixed tree those that have children. A best-first one is EAGLE-2's (arXiv 2406.16858): every level runs the
    C best tokens of the last one, as far as 64 rows allow.
    """
    C, K = tree.candidates, tree.k
    if tree.paths is None:
        widths = [1] + [min(C, MAX_NODES // (K - 1))] * (K - 1) if K > 1 else [1]
        if tree.nodes > 1 + C * sum(widths):
            raise ConfigError(
                f"tree {tree.name}: {sum(widths)} rows of {C} candidates make fewer than {tree.nodes} nodes"
            )
        return Plan(widths, [None] * K, None)
    inner = {path[:-1] for path in tree.paths}
    levels = [[path for path in [(), *tree.paths] if path in inner and len(path) == depth] for depth in range(K)]
    row = {path: n for n, path in enumerate(path for level in levels for path in level)}
    picks: list[list[int] | None] = [
        [(row[path[:-1]] - row[level[0]]) * C + path[-1] for path in below] for level, below in pairwise(levels)
    ]
    return Plan([len(level) for level in levels], [*picks, []], [0] + [row[p[:-1]] * C + p[-1] for p in tree.paths])


class LevelRows:
    """The rows that one level runs, W per slot."""

    def __init__(self, B: int, W: int, device: torch.device) -> None:
        self.ids_BW, self.positions_BW, self.parent_BW = (
            torch.zeros(B, W, dtype=torch.int32, device=device) for _ in range(3)
        )  # parent: each row's among the rows of the level above
        self.words_BW = torch.zeros(B, W, dtype=torch.int64, device=device)


@dataclass
class Level:
    """A level's rows and what becomes of them."""

    first: int  # number of its first row among all
    rows: LevelRows
    ids_RC: Tensor  # candidates
    scores_RC: Tensor
    noise_row_R: Tensor
    temperature_BW1: Tensor
    slot_BW: Tensor  # int32 zeros: where a slot's temperature lies
    picks_X: Tensor | None  # which candidates the next level runs; None: the best


class Growth:
    """Grows the tree of a round in the state's own node buffers.

    Args:
        shift: as in `DraftRows`, which lays out the rows before the first level.
    """

    def __init__(self, state: DecodeState, shift: int) -> None:
        self.shift, shape, device = shift, state.shape, state.device
        B, C, P, plan = shape.B, shape.C, shape.P, plan_growth(shape.tree)
        G = sum(plan.widths)

        def int32(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device)

        def fp32(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float32, device=device)

        def constant(values: list[int] | None) -> Tensor | None:
            return None if values is None else torch.tensor(values, dtype=torch.int32, device=device)

        self.prefix_B, self.append_B = int32(B), int32(B)
        self.pool_ids_BGC, self.pool_scores_BGC, self.origin_BG = int32(B, G, C), fp32(B, G, C), int32(B, G)
        self.picks_N = constant(plan.nodes)
        self.levels = []
        for depth, (first, W, picks) in enumerate(zip(plan.firsts, plan.widths, plan.picks, strict=True)):
            noise_row_B = torch.arange(B, dtype=torch.int32, device=device) * P + depth
            candidates = int32(B * W, C), fp32(B * W, C)
            sampling = noise_row_B.repeat_interleave(W), fp32(B, W, 1), int32(B, W)
            self.levels.append(Level(first, LevelRows(B, W, device), *candidates, *sampling, constant(picks)))
        self._no_rows = LevelRows(B, 0, device)

    @property
    def most_rows(self) -> int:
        """Of a level and slot."""
        return max(level.rows.ids_BW.shape[1] for level in self.levels)

    def rank(
        self, state: DecodeState, depth: int, hidden_RM: Tensor, head_DM: Weight, id_map_D: Tensor | None = None
    ) -> None:
        """From a level's rows, of which `hidden_RM` goes into the head, to those of the next."""
        level = self.levels[depth]
        below = self.levels[depth + 1].rows if depth + 1 < len(self.levels) else self._no_rows
        if state.mode != "greedy":
            ops.gather_features(state.temperature_BK.view(-1, 1), level.slot_BW, level.temperature_BW1)
        noise = shared_noise(state, level.temperature_BW1.view(-1), level.noise_row_R)
        ops.head_top_k(hidden_RM, head_DM, level.ids_RC, level.scores_RC, id_map_D=id_map_D, **noise)
        ops.grow_tree(
            level.ids_RC, level.scores_RC, state.length_B, level.rows.words_BW,
            self.pool_ids_BGC, self.pool_scores_BGC, self.origin_BG,
            below.ids_BW, below.positions_BW, below.words_BW, below.parent_BW, self.prefix_B, self.append_B,
            level=depth, first=level.first, shift=self.shift, picks_X=level.picks_X,
        )  # fmt: skip

    def finish(self, state: DecodeState) -> None:
        """Write the tree into the state."""
        s = state
        ops.prune_tree(
            self.pool_ids_BGC, self.pool_scores_BGC, self.origin_BG, s.bonus_B, s.length_B,
            s.ids_BN, s.parent_BN, s.depth_BN, s.words_BN, s.positions_BN, s.prefix_B, s.noise_row_BN,
            noise_stride=s.shape.P, picks_N=self.picks_N,
        )  # fmt: skip
