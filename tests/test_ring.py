"""The ring: every round once and in order, nothing overwritten, whoever is faster."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from pspec_rt.ops._dispatch import native
from pspec_rt.ring import Ring, RoundRecord

pytestmark = pytest.mark.skipif(not native.available, reason="pspec_rt._C is not built (pip install -e .)")
CPU = torch.device("cpu")
B, P = 3, 5


def produce(ring: Ring, rounds: int) -> None:
    """What `accept` does, with made-up tokens: waits while the ring is full."""
    sizes = (ring.capacity, ring.B, ring.P)
    native.ring_fake_rounds(ring.words_W.data_ptr(), ring.control_C.data_ptr(), *sizes, rounds)


def check(record: RoundRecord | None, round: int, cancelled: tuple[int, ...] = ()) -> None:
    assert record is not None and record.round == round & 0xFFFFFFFF and record.running == B
    assert record.count == [0 if b in cancelled else P for b in range(B)]
    assert record.finished == [5 if b in cancelled else 0 for b in range(B)]
    assert [x & 0xFFFFFFFF for x in record.drafted] == [record.round] * B
    for b in range(B):
        tokens = [native.fake_token(record.round, b, i) for i in range(P)]
        assert record.emitted[b] == ([-1] * P if b in cancelled else tokens)


def test_rounds_come_in_order_and_wrap_around() -> None:
    ring = Ring(B, P, 4, CPU)
    assert ring.take() is None and ring.unread == 0
    for first in range(0, 21, 3):
        produce(ring, 3)
        assert ring.unread == ring.wait(1.0) == 3
        for r in range(first, first + 3):
            check(ring.take(), r)
    assert ring.take() is None


@pytest.mark.parametrize("start", [2**32 - 2, 2**31 - 2])
def test_counters_may_wrap_around(start: int) -> None:
    ring, word = Ring(B, P, 4, CPU), start - (1 << 32) if start >> 31 else start
    ring.words_W[0] = ring.words_W[16] = ring.control_C[4] = word
    ring._tail = start
    for r in range(0, 8, 4):
        produce(ring, 4)
        for i in range(r, r + 4):
            check(ring.take(), start + i)


def test_records_do_not_touch_their_neighbours() -> None:
    """The last record ends where the words end, and nothing is written before its time."""
    ring = Ring(B, P, 2, CPU)
    guard = torch.full((ring.words_W.numel() + 16,), 77, dtype=torch.int32)
    guard[:-16] = 0
    ring.words_W, ring._address = guard, guard.data_ptr()
    produce(ring, 1)
    used = guard.nonzero()[:, 0]
    assert used.max() >= guard.numel() - 16 and (guard[-16:] == 77).all()
    second = ring._first + ring._record_words
    assert not guard[second:-16].any()
    produce(ring, 1)
    assert guard[second:-16].any() and (guard[-16:] == 77).all()


def test_a_burst_ends_when_the_ring_is_full() -> None:
    ring = Ring(B, P, 2, CPU)
    ring.start_burst(10)
    go = []
    for _ in range(2):
        produce(ring, 1)
        go.append(int(ring.control_C[1]))
    assert go == [1, 0]


def test_a_burst_ends_after_its_rounds() -> None:
    ring = Ring(B, P, 8, CPU)
    ring.start_burst(3)
    go = []
    for _ in range(4):
        produce(ring, 1)
        go.append(int(ring.control_C[1]))
    assert go == [1, 1, 0, 0]


def test_cancel_and_clear() -> None:
    ring = Ring(B, P, 8, CPU)
    produce(ring, 1)
    ring.cancel(1)
    produce(ring, 1)
    ring.clear_cancel(1)
    produce(ring, 1)
    for r, cancelled in enumerate([(), (1,), ()]):
        check(ring.take(), r, cancelled)


def test_waiting_ends() -> None:
    ring = Ring(B, P, 2, CPU)
    start = time.perf_counter()
    assert ring.wait(0.02) == 0
    assert 0.02 <= time.perf_counter() - start < 2
    produce(ring, 1)
    assert ring.wait(60) == 1


@pytest.mark.parametrize("capacity", [1, 2, 64])
@pytest.mark.parametrize("late", [False, True])
def test_against_a_producer_in_another_thread(capacity: int, late: bool) -> None:
    rounds, ring = 300, Ring(B, P, capacity, CPU)
    thread = threading.Thread(target=produce, args=(ring, rounds))
    thread.start()
    for r in range(rounds):
        if late and r % 50 == 0:
            time.sleep(0.005)
        assert ring.wait(30)
        check(ring.take(), r)
    thread.join()
    assert ring.take() is None


def test_cancel_while_rounds_run() -> None:
    """From some round on the slot emits nothing; the others never notice."""
    ring, rounds = Ring(B, P, 4, CPU), 200
    thread = threading.Thread(target=produce, args=(ring, rounds))
    thread.start()
    seen = []
    for r in range(rounds):
        if r == 100:
            ring.cancel(2)
        assert ring.wait(30)
        record = ring.take()
        seen.append(record.count[2] == 0)
        check(record, r, (2,) if seen[-1] else ())
    thread.join()
    first = seen.index(True)
    assert 100 <= first <= 105 and all(seen[first:]), "within the records that were in flight"


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_no_data_race(tmp_path: Path) -> None:
    """The same code, producer against consumer, under the thread sanitizer."""
    source, program = Path(__file__).parent / "common" / "ring_threads.cpp", tmp_path / "ring_threads"
    flags = ["-std=c++17", "-O1", "-g", "-pthread", "-fsanitize=thread"]
    built = subprocess.run(["g++", *flags, source, "-o", program], capture_output=True, text=True)
    if "cannot find" in built.stderr and "tsan" in built.stderr:
        pytest.skip("g++ has no thread sanitizer here")
    assert built.returncode == 0, built.stderr
    for arguments in (["1"], ["64"], ["4", "broken"]):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=200)
        if "unexpected memory mapping" in done.stderr:
            pytest.skip("the thread sanitizer cannot run on this kernel")
        races = "data race" in done.stderr
        assert races == ("broken" in arguments) and (races or done.returncode == 0), done.stderr[-3000:]
