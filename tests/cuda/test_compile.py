"""The CUDA kernels compiled by nvcc: nothing spilled, no stack, wide loads where they must be."""

from __future__ import annotations

import importlib.util
import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from .build import CSRC, run

NVCC = shutil.which("nvcc")


def find_cuobjdump() -> str | None:
    """The toolkit's, or the one that Triton brings."""
    triton = importlib.util.find_spec("triton")
    folder = Path(triton.origin).parent / "backends" / "nvidia" / "bin" if triton and triton.origin else None
    return shutil.which("cuobjdump") or (shutil.which("cuobjdump", path=folder) if folder else None)


CUOBJDUMP = find_cuobjdump()
SOURCES = sorted(path.stem for path in (CSRC / "cuda").glob("*.cu"))
ARCHS = ["sm_90a", pytest.param("sm_80", marks=pytest.mark.full), pytest.param("sm_100", marks=pytest.mark.full)]
pytestmark = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


@cache
def compiled(source: str, arch: str, folder: Path) -> tuple[Path, str]:
    """The cubin of csrc/cuda/<source>.cu, and what the assembler says of its kernels."""
    cubin = folder / f"{source}.{arch}.cubin"
    flags = ["-std=c++17", "-O3", f"-arch={arch}", "-cubin", "-Xptxas", "-v", "--Werror", "all-warnings"]
    return cubin, run([NVCC, *flags, CSRC / "cuda" / f"{source}.cu", "-o", cubin])


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_spilled(source: str, arch: str, folder: Path) -> None:
    _, output = compiled(source, arch, folder)
    used = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", output)
    kernels = len(re.findall(r"Compiling entry function", output))
    assert len(used) >= kernels and all(numbers == ("0", "0", "0") for numbers in used), output


@pytest.mark.skipif(CUOBJDUMP is None, reason="needs cuobjdump")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source, kernel", [("compact_kv", "compact_columns"), ("move_rows", "move_columns")])
def test_rows_move_16_bytes_at_a_time(source: str, kernel: str, arch: str, folder: Path) -> None:
    """The rows of a group are all asked for before the first is written."""
    cubin, _ = compiled(source, arch, folder)
    functions = run([CUOBJDUMP, "-sass", cubin]).split("Function : ")
    (sass,) = [text for text in functions if f"{kernel}I5uint4E" in text.splitlines()[0]]
    order = re.findall(r"\b(LD|ST)G?\.E\.128", sass)  # generic ones where the address came out of a table
    assert order == ["LD"] * 8 + ["ST"] * 8
    assert not re.search(r"\b(LDL|STL)\b", sass)
