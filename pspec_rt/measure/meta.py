"""Under what conditions numbers were taken: versions, machine, commit, command line."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..models.target import Target

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "numpy", "llama-cpp-python")


def versions() -> dict[str, str]:
    """Versions of pspec_rt, Python and the packages that matter; "not installed" where so."""
    found = {"pspec_rt": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    """The CPU as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the checkout this package lies in, "+changes" when files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    return commit and commit + ("+changes" if _git(root, "status", "--porcelain", "-uno") else "")


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def command_line() -> str:
    """The command as anybody would type it: without the folders this machine keeps the program in."""
    program = Path(sys.argv[0])
    return shlex.join([str(Path(program.parent.name, program.name)), *sys.argv[1:]])


def conditions() -> dict[str, Any]:
    """Everything about the run that does not depend on the models."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": git_commit(),
        "versions": versions(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def of_target(target: Target, threads: int) -> dict[str, Any]:
    """What was run, and where."""
    meta = {"target": target.path.name, "dtype": target.dtype_name, "device": str(target.device), "threads": threads}
    return meta | ({"gpu": torch.cuda.get_device_name(target.device)} if target.device.type == "cuda" else {})
