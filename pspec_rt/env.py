"""The environment variables pspec_rt reads, all of them, each parsed and checked in one place."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ConfigError

# PSPEC_BACKEND     "ref" or "op:backend,op:backend": force a backend for all ops or for some.
# PSPEC_THREADS     number of CPU threads of the native kernels (default: all usable cores).
# PSPEC_CPU_ISA     "amx", "avx512bf16", "avx512", "avx2" or "portable": instruction set of the native kernels.
# PSPEC_PDL         "1": Triton kernels start while the one before them ends (programmatic dependent launch, sm_90+).
# PSPEC_CACHE       folder of downloaded / converted models (default: $XDG_CACHE_HOME/pspec_rt or ~/.cache/pspec_rt).


def forced_backends() -> dict[str, str]:
    """PSPEC_BACKEND as {op or "*": backend}; raises ConfigError when it is not of the documented form."""
    forced: dict[str, str] = {}
    for item in filter(None, (s.strip() for s in os.environ.get("PSPEC_BACKEND", "").split(","))):
        op, colon, backend = item.partition(":")
        if not colon:
            op, backend = "*", item
        if not op or not backend:
            raise ConfigError(
                f"PSPEC_BACKEND: {item!r} is not BACKEND or OP:BACKEND, e.g. 'ref' or 'linear:ref,accept:cpu'"
            )
        forced[op] = backend
    return forced


def threads() -> int:
    """PSPEC_THREADS, or the number of cores this process may use."""
    value = os.environ.get("PSPEC_THREADS")
    if value is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"PSPEC_THREADS={value!r}: expected a whole number >= 1")
    return int(value)


def cpu_isa() -> str:
    """PSPEC_CPU_ISA, or "" for the best this CPU has; raises ConfigError for an unknown name."""
    value = os.environ.get("PSPEC_CPU_ISA", "")
    if value not in ("", "amx", "avx512bf16", "avx512", "avx2", "portable"):
        raise ConfigError(f"PSPEC_CPU_ISA={value!r}: expected amx, avx512bf16, avx512, avx2 or portable")
    return value


def pdl() -> bool:
    """PSPEC_PDL: whether kernels may ask for programmatic dependent launch; ConfigError unless it is 0 or 1."""
    value = os.environ.get("PSPEC_PDL", "0")
    if value not in ("0", "1"):
        raise ConfigError(f"PSPEC_PDL={value!r}: expected 0 or 1")
    return value == "1"


def local_rank() -> int | None:
    """LOCAL_RANK, which torchrun sets: the number of this process on its machine; None without torchrun."""
    value = os.environ.get("LOCAL_RANK", "")
    return int(value) if value.isdecimal() else None


def triton_interprets() -> bool:
    """TRITON_INTERPRET, Triton's own variable: kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def cache_dir() -> Path:
    """The user cache folder of pspec_rt (not created here)."""
    if value := os.environ.get("PSPEC_CACHE"):
        return Path(value)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pspec_rt"
