"""How this installation was built: version, native module, instruction set, CUDA."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from .ops._dispatch import native


def build_info() -> dict[str, Any]:
    """What this installation can do.

    Returns:
        version, native (whether pspec_rt._C is there) and, if it is: compiler, isa (active instruction set),
        isas (all this CPU can run, best first), cuda (whether CUDA kernels were built), threads.
    """
    if native.available:
        return {"native": True, **native.build_info()}
    return {"native": False, "version": metadata.version("pspec-rt"), "cuda": False}
