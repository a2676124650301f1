"""TreeSpec: closure of static trees, ancestor words against brute force, limits, the command-line forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt.errors import ConfigError
from pspec_rt.tree import MAX_CANDIDATES, MAX_NODES, TreeSpec, medusa_tree, parse_tree

PATHS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=12)


@given(PATHS)
def test_static_trees_are_closed_and_parents_come_first(paths: list[tuple[int, ...]]) -> None:
    tree = TreeSpec.static(paths)
    assert tree.paths is not None
    assert set(paths) <= set(tree.paths)
    assert len(set(tree.paths)) == len(tree.paths) == tree.nodes - 1
    for n, path in enumerate(tree.paths):
        assert path[:-1] == () or path[:-1] in tree.paths[:n]
    assert tree.k == max(map(len, paths)) and tree.path_slots == tree.k + 1
    assert tree.candidates == 1 + max(max(path) for path in paths)
    assert TreeSpec.static(reversed(tree.paths)) == tree


@given(PATHS)
def test_template_against_brute_force(paths: list[tuple[int, ...]]) -> None:
    tree = TreeSpec.static(paths)
    template = tree.template()
    assert template is not None and tree.paths is not None
    nodes = [(), *tree.paths]
    assert {t.dtype for t in template[:3]} == {torch.int32} and template.words_N.dtype == torch.int64
    for n, path in enumerate(nodes):
        ancestors = {i for i, other in enumerate(nodes) if path[: len(other)] == other}
        word = template.words_N[n].item() % 2**64
        assert {i for i in range(64) if word >> i & 1} == ancestors
        assert template.parent_N[n] == (nodes.index(path[:-1]) if path else -1)
        assert template.depth_N[n] == len(path)
        assert template.rank_N[n] == (path[-1] if path else 0)


def test_the_last_bit_of_a_word_can_be_used() -> None:
    template = TreeSpec.static([(rank // 8, rank % 8) for rank in range(56)]).template()  # 7 + 56 nodes and the root
    assert template is not None and len(template.words_N) == MAX_NODES
    assert template.words_N[63] < 0  # bit 63 is the sign


def test_plain_and_chain() -> None:
    plain = TreeSpec.plain()
    assert (plain.k, plain.nodes, plain.path_slots, plain.moves_kv) == (0, 1, 1, False)
    template = plain.template()
    assert template is not None and template.words_N.tolist() == [1] and template.parent_N.tolist() == [-1]
    chain = TreeSpec.chain(5)
    assert (chain.k, chain.nodes, chain.candidates, chain.moves_kv) == (5, 6, 1, False)
    template = chain.template()
    assert template is not None and template.words_N.tolist() == [1, 3, 7, 15, 31, 63]
    assert TreeSpec.static([(0,), (1,)]).moves_kv


def test_best_first() -> None:
    tree = TreeSpec.best_first(4, 16)
    assert (tree.k, tree.nodes, tree.paths, tree.template()) == (4, 16, None, None)
    assert tree.moves_kv and 1 <= tree.candidates <= MAX_CANDIDATES
    assert TreeSpec.best_first(1, 12).candidates == 11  # as many as it takes
    assert TreeSpec.best_first(4, 16, 3).candidates == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TreeSpec.static([]), "at least one path"),
        (lambda: TreeSpec.static([()]), "at least one rank"),
        (lambda: TreeSpec.static([(0, -1)]), "rank >= 0"),
        (lambda: TreeSpec.static([(i // 8, i % 8) for i in range(64)]), "at most 64"),
        (lambda: TreeSpec.static([(MAX_CANDIDATES,)]), "at most 16"),
        (lambda: TreeSpec.chain(33), "2K <= 64"),
        (lambda: TreeSpec.chain(0), "at least one path"),
        (lambda: TreeSpec.best_first(0, 8), "k >= 1"),
        (lambda: TreeSpec.best_first(4, 1), "nodes >= 2"),
        (lambda: TreeSpec.best_first(4, 65), "at most 64"),
        (lambda: TreeSpec.best_first(1, 18), "fewer than 18 nodes"),
        (lambda: TreeSpec.best_first(3, 16, 2), "fewer than 16 nodes"),
        (lambda: TreeSpec.best_first(4, 16, 17), "at most 16"),
    ],
)
def test_limits(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_the_largest_trees_are_allowed() -> None:
    assert TreeSpec.chain(32).nodes == 33
    assert TreeSpec.static([(MAX_CANDIDATES - 1,)]).candidates == MAX_CANDIDATES
    assert TreeSpec.best_first(32, MAX_NODES).nodes == MAX_NODES


def test_command_line_forms(tmp_path: Path) -> None:
    assert parse_tree("chain", 4) == TreeSpec.chain(4)
    assert parse_tree("medusa", 4) == medusa_tree(4)
    assert parse_tree("best-first:16", 4) == TreeSpec.best_first(4, 16)
    assert parse_tree("best-first:16:3", 4) == TreeSpec.best_first(4, 16, 3)
    file = tmp_path / "tree.json"
    file.write_text(json.dumps([[0], [1], [0, 0]]))
    assert parse_tree(str(file), 4).paths == ((0,), (1,), (0, 0))


@pytest.mark.parametrize("text", ["", "bush", "best-first", "best-first:", "best-first:x", "best-first:4:4:4", "Chain"])
def test_unknown_forms_name_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError, match="use chain, best-first:NODES, medusa"):
        parse_tree(text, 4)


@pytest.mark.parametrize("text", ["best-first:-3", "best-first:²", "best-first:0", "best-first:999999999999"])
def test_bad_node_counts(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_tree(text, 4)


@pytest.mark.parametrize("content", ["", "7", "[7]", "[[]]", '[["a"]]', "{}", "[[0], [-1]]"])
def test_bad_tree_files(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tree.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="tree.json"):
        parse_tree(str(file), 4)
    with pytest.raises(ConfigError, match="missing.json"):
        parse_tree(str(tmp_path / "missing.json"), 4)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 8])
def test_medusa_trees(k: int) -> None:
    tree = medusa_tree(k)
    assert tree.name == "medusa" and tree.k <= k
    assert tree.nodes == (11 if k == 1 else MAX_NODES)
    assert tree.candidates <= 10
    assert tree.paths is not None
    for path in tree.paths:  # a likelier sibling is never left out
        assert path[-1] == 0 or (*path[:-1], path[-1] - 1) in tree.paths
