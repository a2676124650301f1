"""The matrix kernels as nvcc makes them: one MMA instruction everywhere, 16-byte copies, a block per multiprocessor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .build import run
from .test_compile import ARCHS, CUOBJDUMP, compiled, pytestmark  # noqa: F401

REGISTERS, THREADS = 65536, 256  # of a multiprocessor, of a block


def kernels(source: str, arch: str, folder: Path) -> dict[str, str]:
    """{kernel: its machine code}"""
    cubin, _ = compiled(source, arch, folder)
    functions = run([CUOBJDUMP, "-sass", cubin]).split("Function : ")[1:]
    return {text.split(maxsplit=1)[0]: text for text in functions}


@pytest.mark.skipif(CUOBJDUMP is None, reason="needs cuobjdump")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source, stem", [("linear", "linear_kernel"), ("draft_forward", "draft_forward_kernel")])
def test_instructions(source: str, stem: str, arch: str, folder: Path) -> None:
    """Every tile of rows and tokens multiplies with the same instruction, so the order within one is the same, too."""
    found = {name: text for name, text in kernels(source, arch, folder).items() if stem in name}
    assert len(found) == {"linear": 24, "draft_forward": 3}[source]
    for name, text in found.items():
        assert set(re.findall(r"\bH?G?MMA\.[.\w]+|\bUTC\w*MMA[.\w]*", text)) == {"HMMA.16816.F32.BF16"}, name
        assert re.search(r"LDGSTS\.E\.[.\w]*128", text) and re.search(r"LDS\.128", text), name
        assert not re.search(r"\b(LDL|STL|RED|ATOMG?\.E\.ADD\.F32)\b", text), name


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source", ["linear", "draft_forward"])
def test_a_block_is_resident(source: str, arch: str, folder: Path) -> None:
    """draft_forward's blocks wait for each other, one on each multiprocessor: registers and shared memory must do."""
    _, output = compiled(source, arch, folder)
    used = [int(count) for count in re.findall(r"Used (\d+) registers", output)]
    assert used and max(used) * THREADS <= REGISTERS
    assert not re.search(r"\d+ bytes smem", output), "static shared memory is not in the launcher's account"
