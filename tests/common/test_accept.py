"""The acceptance walk against a brute force over all root-to-node paths."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt import _C

from ..ops.cases import i32, random_parents

S, TAIL = 24, -5  # capacity of the token buffer; what it holds before


class Slot:
    """One slot's tensors for `_C.accept`."""

    def __init__(
        self,
        ids: list[int],
        parent: list[int],
        target: list[int],
        *,
        P: int,
        stop_ids: list[int] = (),
        limit: int = 1000,
        length: int = 4,
        finished: int = 0,
    ) -> None:
        self.ids, self.parent, self.target = i32(ids), i32(parent), i32(target)
        self.stop_ids, self.limit, self.length = i32([-1, *stop_ids]), i32([limit]), i32([length])
        self.finished, self.bonus, self.tokens = i32([finished]), i32([TAIL]), i32([TAIL] * S)
        self.path, self.emitted, self.count = i32([TAIL] * P), i32([TAIL] * P), i32([TAIL])

    def accept(self) -> Slot:
        addresses = [x.data_ptr() for x in vars(self).values()]
        _C.accept(*addresses, 0, 0, 1, len(self.ids), len(self.stop_ids), S, len(self.path), 0)
        return self


def longest_match(ids: list[int], parent: list[int], target: list[int], P: int) -> list[int]:
    """Nodes of the longest path on which each node is the target token of its parent.

    Of several, the one whose nodes come first: that is what "the lowest-index child" means.
    """
    paths = {0: [0]}
    for n in range(1, len(ids)):
        paths[n] = [*paths[parent[n]], n]
    good = [p for p in paths.values() if all(ids[c] == target[parent[c]] and ids[c] >= 0 for c in p[1:])]
    return _walk_first(good)[:P]


def _walk_first(good: list[list[int]]) -> list[int]:
    """Descend from the root, at each step to the lowest child that lies on a good path."""
    path = [0]
    while True:
        children = sorted(p[-1] for p in good if p[:-1] == path)
        if not children:
            return path
        path.append(children[0])


@given(
    seed=st.integers(0, 10**6),
    N=st.integers(1, 12),
    P=st.integers(1, 6),
    vocab=st.integers(1, 3),
    stop_ids=st.sets(st.integers(0, 3), max_size=2),
    room=st.integers(1, 8),
)
def test_walk(seed: int, N: int, P: int, vocab: int, stop_ids: set[int], room: int) -> None:
    rng = random.Random(seed)
    parent = random_parents(N, rng)
    ids = [rng.randrange(-1, vocab) for _ in range(N)]
    target = [rng.randrange(vocab) for _ in range(N)]
    slot = Slot(ids, parent, target, P=P, stop_ids=list(stop_ids), limit=4 + room).accept()

    path = longest_match(ids, parent, target, P)
    emitted = [target[node] for node in path]
    stops = [i for i, token in enumerate(emitted) if token in stop_ids]
    count = min([len(path), room, *(i + 1 for i in stops)])
    finished = 1 if emitted[count - 1] in stop_ids else 2 if count == room else 0
    padding = [-1] * (P - count)
    assert slot.path.tolist() == path[:count] + padding
    assert slot.emitted.tolist() == emitted[:count] + padding
    assert slot.tokens.tolist() == [TAIL] * 4 + emitted[:count] + [TAIL] * (S - 4 - count)
    state = [slot.count.item(), slot.length.item(), slot.bonus.item(), slot.finished.item()]
    assert state == [count, 4 + count, emitted[count - 1], finished]


def test_a_missing_candidate_never_matches() -> None:
    slot = Slot([3, -1], [-1, 0], [-1, 5], P=2).accept()
    assert slot.path.tolist() == [0, -1]


def test_finished_slots_emit_nothing() -> None:
    for code in (1, 2, 3, 4, 5):
        slot = Slot([3, 4], [-1, 0], [4, 5], P=2, finished=code).accept()
        assert (slot.path.tolist(), slot.emitted.tolist()) == ([-1, -1], [-1, -1])
        state = [slot.count.item(), slot.length.item(), slot.bonus.item(), slot.finished.item()]
        assert state == [0, 4, TAIL, code]
        assert torch.equal(slot.tokens, i32([TAIL] * S))


def test_the_token_buffer_is_never_overrun() -> None:
    slot = Slot([3, 4], [-1, 0], [4, 5], P=2, length=S - 1).accept()
    assert slot.tokens.tolist() == [TAIL] * (S - 1) + [4]
