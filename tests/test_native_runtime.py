"""The settings of the native module: threads, fork, concurrent callers, instruction sets, argument checks."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pspec_rt.build import build_info

_C = pytest.importorskip("pspec_rt._C", reason="pspec_rt._C is not built (pip install -e .)")

V = 40_000


def noise() -> torch.Tensor:
    """A launch large enough to occupy every thread."""
    seed_B, position_B = torch.tensor([1, 2]), torch.tensor([5, 6], dtype=torch.int32)
    out_BPV = torch.empty(2, 3, V)
    _C.gumbel_noise(seed_B.data_ptr(), position_B.data_ptr(), out_BPV.data_ptr(), 2, 3, V)
    return out_BPV


@pytest.mark.usefixtures("threads")
def test_number_of_threads() -> None:
    expected = noise()
    for n in (1, 4, 2, 7, 1, 3):
        _C.set_num_threads(n)
        assert _C.num_threads() == n
        assert torch.equal(noise(), expected)
    with pytest.raises(ValueError, match="at least 1"):
        _C.set_num_threads(0)


@pytest.mark.usefixtures("threads")
def test_concurrent_callers() -> None:
    _C.set_num_threads(3)
    expected = noise()
    with ThreadPoolExecutor(4) as callers:
        for result in callers.map(lambda _: noise(), range(40)):
            assert torch.equal(result, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork() -> None:
    """In its own process: forking a process that has run torch's thread pools is not ours to mend."""
    script = """
import array, os, sys
from pspec_rt import _C
_C.set_num_threads(3)
def noise():
    seed, position, out = array.array("q", [1]), array.array("i", [5]), array.array("f", bytes(400000))
    _C.gumbel_noise(*(x.buffer_info()[0] for x in (seed, position, out)), 1, 1, 100000)
    return out
expected = noise()
child = os.fork()
if child == 0:
    os._exit(0 if noise() == expected else 1)
_, status = os.waitpid(child, 0)
sys.exit(status != 0 or noise() != expected)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_instruction_sets() -> None:
    info = build_info()
    assert info["native"] and info["isas"][-1] == "portable"
    for isa in info["isas"]:
        _C.set_isa(isa)
        assert build_info()["isa"] == isa
    _C.set_isa("")
    assert build_info()["isa"] == info["isas"][0]
    with pytest.raises(ValueError, match="sse9.*usable.*portable"):
        _C.set_isa("sse9")


def test_environment_variable_chooses_the_instruction_set() -> None:
    code = "from pspec_rt.build import build_info; print(build_info()['isa'])"
    environment = {**os.environ, "PSPEC_CPU_ISA": "portable"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "portable"


def test_huge_pages_are_a_hint() -> None:
    buffer = torch.empty(9 << 20, dtype=torch.uint8)
    covered = _C.use_huge_pages(buffer.data_ptr(), buffer.nbytes)
    assert covered in (0, 6 << 20, 8 << 20), "whole 2 MiB pages inside the buffer, or none"
    buffer.fill_(7)
    assert buffer.min() == 7
    assert _C.use_huge_pages(buffer.data_ptr(), 1000) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _C.linear(*[0] * 5, 1, 8, 8, 0.0, False, False, 9, 0, 0), "dtype code"),
        (lambda: _C.head_top_k(*[0] * 8, 1, 8, 8, 8, 17, 0, 0), "C must be 1..16"),
        (lambda: _C.build_tree(*[0] * 15, 1, 1, 1, 65, 0), "N must be 1..64"),
        (lambda: _C.tree_attention(*[0] * 6, 1, 4, 3, 2, 8, 8, 1.0, 0, 0, 1, 1), "multiple of G"),
    ],
)
def test_bad_arguments_are_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_triton_kernels_are_installed() -> None:
    code = "import pspec_rt.triton_kernels"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.expanduser("~"))
