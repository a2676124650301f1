"""Scratch memory: it grows, stays where it was for graphs that hold it, and is apart for whoever asks for that."""

from __future__ import annotations

import torch

from pspec_rt.scratch import Scratch, scratch, scratch_of

CPU = torch.device("cpu")


def test_it_grows_and_stays() -> None:
    own = Scratch()
    small = own.take(CPU, "test", 10, torch.float32)
    assert own.take(CPU, "test", 5, torch.float32) is small
    large = own.take(CPU, "test", 100, torch.float32)
    assert large.numel() >= 100 and own.take(CPU, "test", 10, torch.float32) is large
    assert own.take(CPU, "other", 10, torch.float32) is not large
    assert own.nbytes == 4 * (10 + 100 + 10), "a captured graph may hold the address of the small one"


def test_it_can_be_written_in_and_outside_inference_mode() -> None:
    with torch.inference_mode():
        made = Scratch().take(CPU, "test", 3, torch.float32)
        made.fill_(1)
    made.fill_(2)


def test_two_that_run_at_once_have_their_own() -> None:
    def take() -> torch.Tensor:
        return scratch(CPU, "test_scratch", 10, torch.int32)

    one, two, shared = Scratch(), Scratch(), take()
    with scratch_of(one):
        first = take()
        with scratch_of(two):
            assert take() is not first
        assert take() is first and first is not shared
    assert take() is shared
