"""The ring through which rounds hand their results to the host, without either waiting for the other."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .ops._dispatch import native

# The layout is csrc/common/ring.h's.
_TAIL, _CANCEL = 16, 32
_BURST_LEFT, _GO, _DEVICE_HEAD = 0, 1, 4
_RECORD_HEAD, _PER_SLOT = 4, 3
_UINT32 = 0xFFFFFFFF


class RoundRecord(NamedTuple):
    """What one round gave every slot."""

    round: int  # rounds published before it
    clock_ns: int  # when it was published, by the clock of the device
    running: int  # slots that run on
    count: list[int]  # type: ignore[assignment]  # tokens emitted (hides the method of tuples)
    drafted: list[int]  # candidates in the tree
    finished: list[int]  # codes of `pspec_rt.state`
    emitted: list[list[int]]  # tokens, -1 padded


class Ring:
    """Records of up to `capacity` rounds of B slots with P path slots, written by `accept` and read here.

    Args:
        capacity: a power of two. A round that finds no free record changes nothing and publishes nothing.
        device: where rounds run; on a GPU the words lie in pinned memory that both sides see.

    Attributes:
        words_W, control_C: the shared words, and the device's own (csrc/common/ring.h).
        go_address: of the word that says whether another round of a burst may run.
    """

    def __init__(self, B: int, P: int, capacity: int, device: torch.device) -> None:
        assert capacity > 0 and capacity & (capacity - 1) == 0, "the capacity is a power of two"
        self.B, self.P, self.capacity = B, P, capacity
        self._record_words = _padded(_RECORD_HEAD + _PER_SLOT * B + B * P)
        self._first = _CANCEL + _padded(B)
        words = self._first + capacity * self._record_words
        self.words_W = torch.zeros(words, dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
        self.control_C = torch.zeros(8, dtype=torch.int32, device=device)
        self._address = self.words_W.data_ptr()
        self.go_address = self.control_C.data_ptr() + _GO * self.control_C.itemsize
        self._tail = 0

    @property
    def unread(self) -> int:
        """Rounds published and not taken."""
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> int:
        """Wait for a round, other threads running meanwhile; how many are unread, 0 if none came in time."""
        head = native.ring_wait(self._address, self._tail, int(timeout_s * 1e6))
        return (head - self._tail) & _UINT32

    def take(self) -> RoundRecord | None:
        """The oldest unread round, None if there is none; its record is free from then on."""
        if not self.unread:
            return None
        B, P = self.B, self.P
        first = self._first + self._tail % self.capacity * self._record_words
        words = self.words_W[first : first + self._record_words].tolist()
        self._tail = (self._tail + 1) & _UINT32
        native.ring_store(self._address, _TAIL, self._tail)
        slots, rows = words[_RECORD_HEAD:], words[_RECORD_HEAD + _PER_SLOT * B :]
        count, drafted, finished = (slots[i : _PER_SLOT * B : _PER_SLOT] for i in range(_PER_SLOT))
        emitted = [rows[b * P : (b + 1) * P] for b in range(B)]
        clock_ns = (words[2] << 32) | (words[1] & _UINT32)
        return RoundRecord(words[0] & _UINT32, clock_ns, words[3], count, drafted, finished, emitted)

    def cancel(self, slot: int) -> None:
        """Let a running slot end, emitting nothing, with the next round that begins."""
        self._store_cancel(slot, 1)

    def clear_cancel(self, slot: int) -> None:
        """Before the slot runs again."""
        self._store_cancel(slot, 0)

    def start_burst(self, rounds: int) -> None:
        """Let the next rounds of the current stream say "go on" until `rounds` have run; to nobody, so far."""
        self.control_C[:_DEVICE_HEAD].zero_()  # the condition of an earlier WHILE graph, too
        self.control_C[_BURST_LEFT].fill_(rounds)

    def _store_cancel(self, slot: int, value: int) -> None:
        assert 0 <= slot < self.B, f"slot {slot} of {self.B}"
        native.ring_store(self._address, _CANCEL + slot, value)


def _padded(words: int) -> int:
    """Rounded up to whole cache lines."""
    return -(-words // 16) * 16
