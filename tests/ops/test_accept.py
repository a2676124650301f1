"""accept against a walk with Python lists."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import ops

from .cases import WILD, i32, random_parents

ARGUMENTS = (
    "ids", "parent", "target", "stop_ids", "limit",
    "length", "finished", "bonus", "tokens", "path", "emitted", "count",
)  # fmt: skip
Slot = dict[str, list[int] | int]


def walk(slot: Slot, P: int) -> None:
    """One slot, in place."""
    slot["path"], slot["emitted"], slot["count"] = [-1] * P, [-1] * P, 0
    if slot["finished"] != 0:
        return
    node, old_length = 0, slot["length"]
    for i in range(P):
        token = slot["target"][node]
        slot["path"][i], slot["emitted"][i], slot["bonus"] = node, token, token
        slot["tokens"][old_length + i] = token
        slot["count"], slot["length"] = i + 1, old_length + i + 1
        if token < 0:
            slot["finished"] = 4
        elif token in [stop for stop in slot["stop_ids"] if stop >= 0]:
            slot["finished"] = 1
        elif slot["length"] >= slot["limit"]:
            slot["finished"] = 2
        children = [n for n, p in enumerate(slot["parent"]) if p == node and slot["ids"][n] == token >= 0]
        if slot["finished"] or not children:
            return
        node = children[0]


def run(slots: list[Slot]) -> list[Slot]:
    """The op on all slots at once."""
    tensors = {name: i32([slot[name] for slot in slots]) for name in ARGUMENTS}
    tensors["stop_ids"] = tensors["stop_ids"].view(len(slots), -1)
    ops.accept(*tensors.values())
    return [{name: x[b].tolist() for name, x in tensors.items()} for b in range(len(slots))]


def check(slots: list[Slot]) -> list[Slot]:
    expected, got = copy.deepcopy(slots), run(slots)
    for before, slot, result in zip(slots, expected, got, strict=True):
        walk(slot, len(before["path"]))
        assert result == slot
    return got


def make_slot(seed: int, N: int, P: int, S: int, Q: int, vocab: int, finished: int = 0) -> Slot:
    """A random tree over a tiny vocabulary, so long walks and equal siblings are common."""
    rng = random.Random(seed)
    length = rng.randint(1, S - P)
    return {
        "ids": [rng.randrange(-1, vocab) for _ in range(N)],
        "parent": random_parents(N, rng),
        "target": [rng.randrange(-1, vocab) if rng.random() < 0.2 else rng.randrange(vocab) for _ in range(N)],
        "stop_ids": [rng.choice([-1, -1, rng.randrange(vocab)]) for _ in range(Q)],
        "limit": rng.randint(length, S),
        "length": length,
        "finished": finished,
        "bonus": WILD,
        "tokens": [WILD] * S,
        "path": [WILD] * P,
        "emitted": [WILD] * P,
        "count": WILD,
    }


@given(
    seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=3),
    N=st.integers(1, 20), P=st.integers(1, 7), Q=st.integers(0, 3), vocab=st.integers(1, 3),
    codes=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5]), min_size=3, max_size=3),
)  # fmt: skip
def test_rule(backend: str, seeds: list[int], N: int, P: int, Q: int, vocab: int, codes: list[int]) -> None:
    pairs = zip(seeds, codes, strict=False)
    check([make_slot(seed, N, P, P + 6, Q, vocab, code) for seed, code in pairs])


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("N", [1, 31, 32, 33, 64])
def test_tree_sizes(backend: str, N: int, B: int) -> None:
    check([make_slot(N + b, N, 9, 40, 2, 2) for b in range(B)])


def chain(tokens: list[int], **changes: object) -> Slot:
    """A chain of drafts 1, 2, .. and a target that says `tokens`; 5 committed tokens, no limit in reach."""
    N = len(tokens)
    slot = make_slot(0, N, N, 5 + N, 2, 9)
    slot |= {"ids": list(range(N)), "parent": list(range(-1, N - 1)), "target": tokens}
    return slot | {"stop_ids": [-1, -1], "limit": 5 + N, "length": 5} | changes


def test_whole_chain_and_limit(backend: str) -> None:
    (slot,) = check([chain([1, 2, 3, 4])])
    assert slot["count"] == 4 and slot["finished"] == 2 and slot["length"] == 9 and slot["bonus"] == 4


def test_stop_wins_over_the_limit(backend: str) -> None:
    (slot,) = check([chain([1, 2, 3, 4], stop_ids=[-1, 4])])
    assert slot["finished"] == 1
    (slot,) = check([chain([1, 2, 3, 4], stop_ids=[2, 4], limit=7)])
    assert slot["finished"] == 1 and slot["emitted"] == [1, 2, -1, -1]


def test_unused_stop_ids_never_match(backend: str) -> None:
    """A target of -1 comes of NaN logits: an error, not a stop, and counted."""
    (slot,) = check([chain([1, -1, 3], limit=99)])
    assert slot["finished"] == 4 and slot["count"] == 2 and slot["emitted"] == [1, -1, -1]


def test_no_candidate_never_matches(backend: str) -> None:
    (slot,) = check([chain([-1, -1, -1], ids=[0, -1, -1], limit=99)])
    assert slot["count"] == 1


def test_lowest_of_equal_siblings(backend: str) -> None:
    parents, ids = [-1, 0, 0, 1, 2], [0, 7, 7, 8, 8]
    (slot,) = check([chain([7, 8, 8, 1, 1], parent=parents, ids=ids, limit=99)])
    assert slot["path"][:3] == [0, 1, 3]


def test_path_slots_end_the_walk(backend: str) -> None:
    slot = chain([1, 2, 3, 4], path=[WILD] * 2, emitted=[WILD] * 2, limit=99)
    (result,) = check([slot])
    assert result["count"] == 2 and result["finished"] == 0


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_finished_slots_change_nothing_else(backend: str, code: int) -> None:
    """Idle slots may hold anything; only path, emitted and count are written."""
    slot = chain([1, 2, 3], finished=code, bonus=WILD, length=1, limit=1)
    slot |= {"target": [WILD] * 3, "ids": [WILD] * 3}
    (result,) = check([slot, chain([1, 2, 3])])[:1]
    kept = ("length", "finished", "bonus", "tokens", "limit")
    assert {k: result[k] for k in kept} == {k: slot[k] for k in kept}
    assert result["count"] == 0 and result["path"] == result["emitted"] == [-1] * 3


def test_history_may_end_at_the_capacity(backend: str) -> None:
    (slot,) = check([chain([1, 2, 3])])
    assert slot["tokens"][5:] == [1, 2, 3] and slot["length"] == len(slot["tokens"])


def test_wrong_arguments_are_named() -> None:
    def tensors(**changes: Tensor) -> list[Tensor]:
        slot = chain([1, 2, 3])
        return list(({name: i32([slot[name]]) for name in ARGUMENTS} | changes).values())

    with pytest.raises(ValueError, match="target_BN"):
        ops.accept(*tensors(target=i32([[1, 2]])))
    with pytest.raises(ValueError, match="length_B.*int32"):
        ops.accept(*tensors(length=torch.tensor([5])))
    with pytest.raises(ValueError, match="tokens_BS"):
        ops.accept(*tensors(tokens=i32([[1], [2]])))
