"""Draft trees: chain, static and best-first shapes, and the constant tensors a fixed shape needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import ConfigError

MAX_NODES = 64  # one 64-bit ancestor word per node
MAX_CANDIDATES = 16  # candidates per depth the top-k kernels keep
DEFAULT_CANDIDATES = 8  # best-first trees rarely reach a deeper rank

Path_ = tuple[int, ...]


class TreeTemplate(NamedTuple):
    """A tree whose shape is fixed: node n's token is candidate `rank` of its depth. Node 0 is the root."""

    parent_N: Tensor  # int32, -1 for the root, parent index < child index
    depth_N: Tensor  # int32
    rank_N: Tensor  # int32
    words_N: Tensor  # int64, bit i set iff node i is the node itself or an ancestor


@dataclass(frozen=True)
class TreeSpec:
    """The shape of the drafted tree; the number of nodes is fixed, so every round has the same shapes.

    Attributes:
        k: drafted depths.
        nodes: N, the root included.
        candidates: C, how many candidates per depth the drafter must give.
        paths: for fixed shapes, one tuple of candidate ranks per node (Medusa / EAGLE style), parents first;
            None for a best-first tree, whose shape is chosen each round from the drafter's scores.
        name: as the user wrote it.
    """

    k: int
    nodes: int
    candidates: int
    paths: tuple[Path_, ...] | None
    name: str

    @property
    def path_slots(self) -> int:
        """P: the longest root path, root included."""
        return self.k + 1

    @property
    def moves_kv(self) -> bool:
        """Whether accepted nodes may lie apart in the cache; a chain's never do."""
        return self.paths is None or any(set(path) != {0} for path in self.paths)

    @staticmethod
    def plain() -> TreeSpec:
        """No drafts: the root alone, i.e. ordinary decoding."""
        return TreeSpec(0, 1, 1, (), "plain")

    @staticmethod
    def chain(k: int) -> TreeSpec:
        """The best candidate of each of k depths."""
        return TreeSpec.static([(0,) * depth for depth in range(1, k + 1)], name=f"chain({k})")

    @staticmethod
    def static(paths: Iterable[Sequence[int]], name: str = "static") -> TreeSpec:
        """A fixed tree given as paths of candidate ranks, e.g. [(0,), (1,), (0, 0)] (Medusa's and EAGLE's notation).

        Missing prefixes are added. Raises ConfigError for empty trees, negative ranks or more than 63 drafted nodes.
        """
        given = [tuple(int(rank) for rank in path) for path in paths]
        if not given or any(not path or min(path) < 0 for path in given):
            raise ConfigError("a static tree needs at least one path, and every path at least one rank >= 0")
        closed = {path[:end] for path in given for end in range(1, len(path) + 1)}
        ordered = tuple(sorted(closed, key=lambda path: (len(path), path)))
        k = len(ordered[-1])
        candidates = 1 + max(max(path) for path in ordered)
        return _checked(TreeSpec(k, 1 + len(ordered), candidates, ordered, name))

    @staticmethod
    def best_first(k: int, nodes: int, candidates: int | None = None) -> TreeSpec:
        """The `nodes`-node tree with the largest summed path scores, found anew each round.

        Optimal for drafters whose candidates of a depth do not depend on the path (DDTree, arXiv 2604.12989).
        """
        if k < 1 or nodes < 2:
            raise ConfigError(f"a best-first tree needs k >= 1 and nodes >= 2 (root included), got k={k} nodes={nodes}")
        if candidates is None:
            candidates = min(DEFAULT_CANDIDATES, nodes - 1)
            while _full_tree(k, candidates) < nodes and candidates < MAX_CANDIDATES:
                candidates += 1
        if _full_tree(k, candidates) < nodes:
            raise ConfigError(f"{candidates} candidates at each of {k} depths make fewer than {nodes} nodes")
        return _checked(TreeSpec(k, nodes, candidates, None, f"best-first({nodes})"))

    def template(self, device: torch.device | str = "cpu") -> TreeTemplate | None:
        """The constant tensors of a fixed shape; None for best-first."""
        if self.paths is None:
            return None
        index = {(): 0} | {path: n for n, path in enumerate(self.paths, start=1)}
        nodes: list[Path_] = [(), *self.paths]
        parents = [-1] + [index[path[:-1]] for path in self.paths]
        words = [1]
        for n in range(1, len(nodes)):
            words.append(words[parents[n]] | 1 << n)
        return TreeTemplate(
            torch.tensor(parents, dtype=torch.int32, device=device),
            torch.tensor([len(path) for path in nodes], dtype=torch.int32, device=device),
            torch.tensor([path[-1] if path else 0 for path in nodes], dtype=torch.int32, device=device),
            torch.tensor([_signed(word) for word in words], dtype=torch.int64, device=device),
        )


def parse_tree(text: str, k: int) -> TreeSpec:
    """A tree from its command-line form: `chain`, `best-first:NODES[:CANDIDATES]`, `medusa`, or a JSON file of paths.

    Raises ConfigError naming the accepted forms.
    """
    kind, _, rest = text.partition(":")
    if text == "chain":
        return TreeSpec.chain(k)
    if text == "medusa":
        return medusa_tree(k)
    if kind == "best-first" and all(part.isdecimal() for part in rest.split(":")) and rest.count(":") < 2:
        return TreeSpec.best_first(k, *map(int, rest.split(":")))
    if text.endswith(".json"):
        try:
            paths = json.loads(Path(text).read_text())
            return TreeSpec.static(paths, name=text)
        except (OSError, ValueError, TypeError) as error:
            message = f"tree file {text}: expected a JSON list of rank lists such as [[0],[1],[0,0]]: {error}"
            raise ConfigError(message) from error
    raise ConfigError(f"unknown tree {text!r}: use chain, best-first:NODES, medusa, or a .json file of paths")


def own_tree(text: str, k: int) -> TreeSpec:
    """A drafter's own tree at `k` depths: as `parse_tree`, but with no more nodes than so many depths hold."""
    kind, _, rest = text.partition(":")
    if kind != "best-first":
        return parse_tree(text, k)
    nodes, *candidates = map(int, rest.split(":"))
    most = _full_tree(k, *candidates or [MAX_CANDIDATES])
    return TreeSpec.chain(1) if k == 1 else TreeSpec.best_first(k, min(nodes, most), *candidates)


def medusa_tree(k: int, nodes: int = 64) -> TreeSpec:
    """A static tree in Medusa's manner: the best-first tree under typical accuracies per depth and rank.

    Medusa (arXiv 2401.10774, section 2.3.3) builds its trees greedily from calibrated accuracies; here they are a
    fixed geometric model (0.6 of the remaining mass per rank, 0.75 of it kept per depth).
    """
    accuracy = [[0.6 * 0.75**depth * 0.4**rank for rank in range(10)] for depth in range(k)]
    frontier: list[tuple[float, Path_]] = [(accuracy[0][rank], (rank,)) for rank in range(10)]
    chosen: list[Path_] = []
    while frontier and len(chosen) < nodes - 1:
        best = max(frontier, key=lambda entry: (entry[0], [-rank for rank in entry[1]]))
        frontier.remove(best)
        chosen.append(best[1])
        if len(best[1]) < k:
            frontier += [(best[0] * p, (*best[1], rank)) for rank, p in enumerate(accuracy[len(best[1])])]
    return TreeSpec.static(chosen, name="medusa")


def _full_tree(k: int, candidates: int) -> int:
    return sum(candidates**depth for depth in range(min(k, 7) + 1)) if candidates > 1 else k + 1


def _signed(word: int) -> int:
    """A 64-bit pattern as the int64 that holds it."""
    return word - (1 << 64) if word >> 63 else word


def _checked(spec: TreeSpec) -> TreeSpec:
    if spec.nodes > MAX_NODES:
        raise ConfigError(f"tree {spec.name} has {spec.nodes} nodes, root included; at most {MAX_NODES} fit a word")
    if not 1 <= spec.candidates <= MAX_CANDIDATES:
        raise ConfigError(
            f"tree {spec.name} needs {spec.candidates} candidates per depth; at most {MAX_CANDIDATES} fit"
        )
    if 2 * spec.k > MAX_NODES:
        raise ConfigError(f"tree {spec.name} has depth {spec.k}; 2K <= {MAX_NODES} rows are supported")
    return spec
