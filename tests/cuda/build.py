"""Builds what these tests run: .cu files for the host, once per content."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs g++ to build the emulated kernels")
EMULATION = [
    "-x", "c++", "-std=c++17", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-DPSPEC_EMULATE",
    "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-I", str(CSRC), "-include", str(CSRC / "cuda/emulation/emulation.h"),
]  # fmt: skip


def run(command: Sequence[object]) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-6000:]}"
    return done.stdout + done.stderr


def shared_library(name: str, sources: Sequence[Path], flags: Sequence[str] = ()) -> Path:
    """build/emulated/<name>-<hash>/<name>.so of sources for the emulation; built again when any source changed."""
    headers = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cuh"))
    digest = hashlib.sha256(" ".join([*EMULATION, *flags]).encode())
    for path in [*headers, *sources]:
        digest.update(path.read_bytes())
    folder = ROOT / "build" / "emulated" / f"{name}-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / f"{name}.so").exists():
            for old in folder.parent.glob(f"{name}-*"):
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
            _compile(folder, name, sources, flags)
    return folder / f"{name}.so"


def _compile(folder: Path, name: str, sources: Sequence[Path], flags: Sequence[str]) -> None:
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        pairs = zip(sources, objects, strict=True)
        list(pool.map(lambda pair: run([COMPILER, *EMULATION, *flags, "-c", pair[0], "-o", pair[1]]), pairs))
    run([COMPILER, "-shared", "-o", folder / f"{name}.tmp", *objects])
    (folder / f"{name}.tmp").rename(folder / f"{name}.so")
