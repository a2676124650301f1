"""The emulation of CUDA launches: collectives mean what they mean on a GPU, and what is missing shows."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .build import needs_compiler, shared_library

pytestmark = needs_compiler
ASCENDING, DESCENDING, SHUFFLED = range(3)
ORDERS = [(ASCENDING, 0), (DESCENDING, 0), *((SHUFFLED, seed) for seed in range(5))]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(shared_library("selftest", [Path(__file__).with_name("selftest.cu")])))
    for name in ("reverse", "write_past", "warp_ops", "lost_lane", "grid_sum", "early_exit"):
        getattr(loaded, f"run_{name}").restype = ctypes.c_char_p
    return loaded


def at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def reversed_blocks(library: ctypes.CDLL, broken: bool) -> bool:
    blocks, threads = 3, 64
    x, out = torch.randint(1 << 30, (blocks * threads,), dtype=torch.int32), torch.zeros(192, dtype=torch.int32)
    assert library.run_reverse(at(x), at(out), blocks, threads, broken) == b""
    return torch.equal(out.view(blocks, threads), x.view(blocks, threads).flip(1))


@pytest.mark.parametrize("order, seed", ORDERS)
def test_barriers_and_shared_memory(library: ctypes.CDLL, order: int, seed: int) -> None:
    library.set_order(order, seed)
    assert reversed_blocks(library, broken=False)
    assert not reversed_blocks(library, broken=True), "a missing barrier went unnoticed"


@pytest.mark.parametrize("order, seed", ORDERS)
def test_warp_collectives(library: ctypes.CDLL, order: int, seed: int) -> None:
    library.set_order(order, seed)
    x, out = torch.randint(1 << 20, (64,), dtype=torch.int32), torch.zeros(6, 64, dtype=torch.int32)
    assert library.run_warp_ops(at(x), at(out)) == b""
    lane, warps = torch.arange(32), x.view(2, 32)
    assert torch.equal(out[0].view(2, 32), warps.sum(1, keepdim=True).int().expand(2, 32))
    assert torch.equal(out[1].view(2, 32), warps[:, lane ^ 5])
    assert torch.equal(out[2].view(2, 32), warps[:, (lane - 1).clamp(min=0)])
    assert torch.equal(out[3].view(2, 32), warps[:, lane // 8 * 8])
    odd = [sum((int(v) & 1) << i for i, v in enumerate(warp)) for warp in warps]
    assert [v & 0xFFFFFFFF for v in out[4, [0, 31, 32, 63]].tolist()] == [odd[0], odd[0], odd[1], odd[1]]
    halves = torch.cat(
        [warps[:, :16].sum(1, keepdim=True).int().expand(2, 16), warps[:, 16:].amax(1, True).expand(2, 16)], 1
    )
    assert torch.equal(out[5].view(2, 32), halves)


@pytest.mark.parametrize("order, seed", ORDERS)
def test_blocks_side_by_side(library: ctypes.CDLL, order: int, seed: int) -> None:
    """A barrier of the whole grid needs the cooperative launch; each block keeps its own static shared memory."""
    library.set_order(order, seed)
    counter, total, out = (torch.zeros(n, dtype=torch.int32) for n in (1, 1, 7 * 32))
    assert library.run_grid_sum(at(counter), at(total), at(out), 7, True) == b""
    assert torch.equal(out, (2801 + torch.arange(7).repeat_interleave(32)).int())
    assert b"only spin loops run" in library.run_grid_sum(at(counter.zero_()), at(total), at(out), 7, False)


def test_threads_that_ended_are_not_waited_for(library: ctypes.CDLL) -> None:
    out = torch.zeros(10, dtype=torch.int32)
    assert library.run_early_exit(at(out)) == b""
    assert out.tolist() == [5] * 10


def test_what_cannot_go_on_is_an_error(library: ctypes.CDLL) -> None:
    assert b"wait for some that never come" in library.run_lost_lane()
    assert library.run_write_past(15) == b""
    assert b"past the end of dynamic shared memory" in library.run_write_past(16)
