"""accept with a ring, natively on the CPU and by the emulated CUDA kernel: what it publishes is what it did."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pspec_rt import ops
from pspec_rt.ring import Ring
from tests.ops.cases import i32, random_parents

from .build import needs_compiler
from .module import emulated, emulated_op

CPU = torch.device("cpu")
N, P, S, Q = 40, 6, 60, 3
HANDLE = 0x1234_5678_9ABC_DEF0


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_compiler)])
def on(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cpu":
        yield "cpu"
        return
    with emulated_op("accept"):
        yield "cuda"


class Slots:
    """Random trees over a tiny vocabulary, anew for every round."""

    def __init__(self, B: int, seed: int, limit: int = S) -> None:
        self.rng, self.B = random.Random(seed), B
        self.length_B, self.finished_B, self.bonus_B = i32([3] * B), i32([0] * B), i32([0] * B)
        self.limit_B, self.tokens_BS = i32([limit] * B), torch.full((B, S), -7, dtype=torch.int32)
        self.path_BP, self.emitted_BP, self.count_B = i32([[9] * P] * B), i32([[9] * P] * B), i32([9] * B)
        self.new_trees()

    def new_trees(self, nan: bool = True) -> None:
        rng, B = self.rng, self.B
        self.ids_BN = i32([[1, *(rng.randrange(-1, 3) for _ in range(N - 1))] for _ in range(B)])
        self.parent_BN = i32([random_parents(N, rng) for _ in range(B)])
        lowest = -1 if nan and rng.random() < 0.1 else 0
        self.target_BN = i32([[rng.randrange(lowest, 3) for _ in range(N)] for _ in range(B)])
        self.stop_ids_BQ = i32([[-1, rng.choice([-1, 2]) if rng.random() < 0.1 else -1, -1] for _ in range(B)])

    def accept(self, ring: Ring | None) -> None:
        ops.accept(
            self.ids_BN, self.parent_BN, self.target_BN, self.stop_ids_BQ, self.limit_B, self.length_B,
            self.finished_B, self.bonus_B, self.tokens_BS, self.path_BP, self.emitted_BP, self.count_B, ring=ring,
        )  # fmt: skip

    def state(self) -> list[Tensor]:
        return [self.length_B, self.finished_B, self.bonus_B, self.tokens_BS]

    def copy(self) -> Slots:
        twin = Slots.__new__(Slots)
        twin.__dict__ = {name: x.clone() if isinstance(x, Tensor) else x for name, x in vars(self).items()}
        return twin


def check_record(ring: Ring, slots: Slots, was_running: list[bool]) -> None:
    record = ring.take()
    assert record is not None and record.running == slots.finished_B.tolist().count(0)
    assert record.count == slots.count_B.tolist() and record.finished == slots.finished_B.tolist()
    assert record.emitted == slots.emitted_BP.tolist()
    offered = ((slots.ids_BN >= 0).sum(1) - 1).tolist()
    assert record.drafted == [n if ran else 0 for n, ran in zip(offered, was_running, strict=True)]


@given(seed=st.integers(0, 10**6), B=st.sampled_from([1, 2, 3, 17, 40]), capacity=st.sampled_from([1, 4]))
def test_publishes_what_it_did(on: str, seed: int, B: int, capacity: int) -> None:
    """Round after round until all have finished, and once more; without a ring it does the same."""
    slots, ring = Slots(B, seed, limit=3 + seed % 20), Ring(B, P, capacity, CPU)
    for _ in range(6):
        slots.new_trees()
        was_running = [code == 0 for code in slots.finished_B.tolist()]
        alone = slots.copy()
        slots.accept(ring)
        alone.accept(None)
        for ours, theirs in zip(slots.state() + [slots.path_BP], alone.state() + [alone.path_BP], strict=True):
            assert torch.equal(ours, theirs)
        assert ring.unread == 1
        check_record(ring, slots, was_running)


def test_cancelled_slots_end_and_emit_nothing(on: str) -> None:
    slots, ring = Slots(3, 1), Ring(3, P, 8, CPU)
    ring.cancel(1)
    ring.cancel(2)
    slots.finished_B[2] = 1
    before = [x.clone() for x in slots.state()]
    slots.accept(ring)
    assert slots.finished_B[1:].tolist() == [5, 1] and slots.count_B[1:].tolist() == [0, 0]
    assert (slots.path_BP[1:] == -1).all() and (slots.emitted_BP[1:] == -1).all() and slots.count_B[0] > 0
    for name, x, old in zip(("length", "finished", "bonus", "tokens"), slots.state(), before, strict=True):
        assert name == "finished" or torch.equal(x[1:], old[1:])
    check_record(ring, slots, [True, True, False])
    slots.accept(ring)
    assert slots.finished_B[1] == 5, "its reason stays"


def test_a_full_ring_holds_everything(on: str) -> None:
    """A round too many changes nothing, publishes nothing and ends the burst; the next one goes on from there."""
    slots, ring = Slots(2, 5), Ring(2, P, 2, CPU)
    ring.start_burst(100)
    go = []
    for _ in range(2):
        slots.new_trees(nan=False)
        slots.stop_ids_BQ.fill_(-1)
        slots.accept(ring)
        go.append(int(ring.control_C[1]))
    assert go == [1, 0]
    words, before = ring.words_W.clone(), [x.clone() for x in slots.state()]
    ring.cancel(0)
    ring.clear_cancel(0)
    slots.accept(ring)
    assert torch.equal(ring.words_W, words) and ring.control_C[1] == 0
    assert all(torch.equal(x, old) for x, old in zip(slots.state(), before, strict=True))
    assert slots.count_B.tolist() == [0, 0] and (slots.path_BP == -1).all()
    first, second = ring.take(), ring.take()
    assert first is not None and second is not None and (first.round, second.round) == (0, 1)
    assert first.clock_ns <= second.clock_ns
    slots.accept(ring)
    check_record(ring, slots, [True, True])


def test_a_burst_ends_with_the_last_slot(on: str) -> None:
    slots, ring = Slots(2, 6, limit=4), Ring(2, P, 8, CPU)
    ring.start_burst(100)
    slots.accept(ring)
    assert slots.finished_B.tolist() == [2, 2] and ring.control_C[1] == 0


def test_a_ring_of_other_sizes_is_named(on: str) -> None:
    with pytest.raises(ValueError, match="ring: made for B=3"):
        Slots(2, 0).accept(Ring(3, P, 2, CPU))


@needs_compiler
@pytest.mark.parametrize("rounds, expected", [(3, 1), (1, 0)])
def test_the_loop_node_is_told_once(rounds: int, expected: int) -> None:
    slots, ring = Slots(40, 2), Ring(40, P, 8, CPU)
    slots.stop_ids_BQ.fill_(-1)
    with emulated_op("accept"):
        emulated().take_conditional()
        slots.accept(ring)
        assert emulated().take_conditional()[2] == 0, "without a loop node nobody is told"
        ring.start_burst(rounds)
        ring.control_C[2:4] = _halves(HANDLE)
        slots.accept(ring)
        assert emulated().take_conditional() == (HANDLE, expected, 1)


def _halves(handle: int) -> Tensor:
    low, high = handle & 0xFFFFFFFF, handle >> 32
    return i32([x - (1 << 32) if x >> 31 else x for x in (low, high)])
