"""Every kernel compiles for every architecture without a GPU, and spills nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
from pspec_rt.triton_kernels._aot import ARCHITECTURES, Compiled  # noqa: E402

from pspec_rt.ops._dispatch import REGISTRY  # noqa: E402

# A row rounds alike in each of their compilations, and in linear with the op inside.
UNFUSED = {"add_rms_norm", "gumbel_noise", "rope_append", "silu_add", "silu_mul"}
KERNELS = {name for name, op in REGISTRY.items() if "triton" in op.backends}


def compiled(tmp_path: Path, arch: int, *options: str) -> list[Compiled]:
    """In a process of its own: where kernels are interpreted, there is nothing to compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "pspec_rt.triton_kernels._aot", "--json", tmp_path / "out.json"]
    subprocess.run([*command, "--arch", str(arch), *options], check=True, env=environment)
    return [Compiled(**entry) for entry in json.loads((tmp_path / "out.json").read_text())]


def check(results: list[Compiled]) -> None:
    faults = [fault for result in results for fault in result.faults()]
    assert not faults, "\n" + "\n".join(faults)
    assert {result.op for result in results} == KERNELS
    assert not [result for result in results if result.op in UNFUSED and result.fma]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_one_specialisation_of_each_kernel(tmp_path: Path, arch: int) -> None:
    check(compiled(tmp_path, arch))


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_specialisation(tmp_path: Path, arch: int) -> None:
    check(compiled(tmp_path, arch, "--all"))
