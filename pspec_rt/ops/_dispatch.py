"""Which backend runs each op, the door to the native module, and the shape checks all ops share."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch

from .. import env
from ..errors import ConfigError
from ..quantize import Int8Weight, Weight

log = logging.getLogger("pspec_rt")

# Preference per device type; `ref` is the definition and always there.
PREFERENCE = {"cpu": ("cpu", "ref"), "cuda": ("cuda", "triton", "ref")}
REGISTRY: dict[str, Op] = {}
PAGE_SIZES = (16, 32, 64, 128, 256)  # rows of a page of a paged cache
# As in csrc/params.h; the names are those of an Int8Weight.
DTYPE_CODE: dict[torch.dtype | str, int] = {torch.float32: 0, torch.bfloat16: 1, "int8": 2, "int8a8": 3}


class _Native:
    """Lazy proxy of `pspec_rt._C`; every native launch passes here, so a test can record it."""

    def __init__(self) -> None:
        self._module: Any = None

    @property
    def available(self) -> bool:
        return self._load() is not None

    def _load(self) -> Any:
        if self._module is None:
            try:
                self._module = importlib.import_module("pspec_rt._C")
                self._module.set_num_threads(env.threads())
                self._module.set_isa(env.cpu_isa())
            except ImportError as error:
                log.warning("pspec_rt._C is not built (%s): all ops run on ref", error)
                self._module = False
        return self._module or None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        module = self._load()
        assert module is not None, "native kernel called although pspec_rt._C is not built"
        function: Callable[..., Any] = getattr(module, name)
        setattr(self, name, function)  # found without this method from now on
        return function


native = _Native()


def triton_kernel(op: str) -> Callable[..., None]:
    """The launcher in `triton_kernels/<op>.py`, imported at its first call: other runs do without Triton."""
    launcher: Callable[..., None] | None = None

    def launch(*args: object, **kwargs: object) -> None:
        nonlocal launcher
        if launcher is None:
            launcher = getattr(importlib.import_module(f"pspec_rt.triton_kernels.{op}"), op)
        launcher(*args, **kwargs)

    return launch


def native_launch(op: str, backend: str, *arguments: float) -> None:
    """Call an op's native kernel: that for the CPU, or that for CUDA on the current stream."""
    if backend == "cuda":
        getattr(native, f"cuda_{op}")(*arguments, cuda_stream())
    else:
        getattr(native, op)(*arguments)


def cuda_stream() -> int:
    """torch's current stream, as CUDA knows it."""
    return torch.cuda.current_stream().cuda_stream


def obstacle(backend: str, device_type: str) -> str | None:
    """Why a backend cannot run here on tensors of a device type, None if it can."""
    if backend == "cpu" and not native.available:
        return "pspec_rt._C is not built (see `pspec-rt env`)"
    if backend == "cuda" and not (native.available and native.build_info()["cuda"]):
        return "pspec_rt._C was built without CUDA (see `pspec-rt env`)"
    if backend == "cuda" and device_type != "cuda":
        return f"it runs on CUDA tensors, not on {device_type}"
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if backend == "triton" and device_type != "cuda" and not env.triton_interprets():
        return f"it runs on CUDA tensors; on {device_type} only in Triton's interpreter (set TRITON_INTERPRET=1)"
    return None


class Op:
    """One op: its name and its backends; `op(device)` is the one chosen for that device."""

    def __init__(self, name: str, **backends: Callable[..., None]) -> None:
        self.name = name
        self.backends = backends
        self._chosen: dict[str, Callable[..., None]] = {}
        REGISTRY[name] = self

    def __call__(self, device: torch.device) -> Callable[..., None]:
        run = self._chosen.get(device.type)
        return run if run is not None else self._choose(device.type)

    def backend(self, device_type: str) -> str:
        """Name of the backend for a device type; ConfigError if a forced one does not exist or cannot run."""
        forced = env.forced_backends()
        name = forced.get(self.name, forced.get("*"))
        if name is not None:
            if name not in self.backends:
                raise ConfigError(
                    f"PSPEC_BACKEND: op {self.name!r} has no backend {name!r}, only {sorted(self.backends)}"
                )
            if reason := obstacle(name, device_type):
                raise ConfigError(f"PSPEC_BACKEND: op {self.name!r} cannot run on backend {name!r}: {reason}")
            return name
        usable = (name for name in PREFERENCE.get(device_type, ("ref",)) if name in self.backends)
        return next((name for name in usable if obstacle(name, device_type) is None), "ref")

    def _choose(self, device_type: str) -> Callable[..., None]:
        self._chosen[device_type] = self.backends[self.backend(device_type)]
        return self._chosen[device_type]


def choose_backends(device_type: str) -> dict[str, str]:
    """Choose every op's backend anew (reads PSPEC_BACKEND): {op: backend}, also logged in one line.

    Raises ConfigError if PSPEC_BACKEND names an unknown op, or a backend an op does not have or that cannot run here.
    """
    unknown = set(env.forced_backends()) - set(REGISTRY) - {"*"}
    if unknown:
        raise ConfigError(f"PSPEC_BACKEND names unknown ops {sorted(unknown)}; ops are {sorted(REGISTRY)}")
    table = {}
    for name, op in sorted(REGISTRY.items()):
        op._chosen.clear()
        table[name] = op.backend(device_type)
    log.info("backends on %s: %s", device_type, " ".join(f"{op}={b}" for op, b in table.items()))
    return table


def ptr(tensor: Weight | None) -> int:
    """Address of a tensor's data for a native call, 0 for None; ValueError if not contiguous."""
    if tensor is None:
        return 0
    if isinstance(tensor, torch.Tensor) and not tensor.is_contiguous():
        raise ValueError(
            f"native kernels read contiguous tensors, got shape {tuple(tensor.shape)} with strides {tensor.stride()}"
        )
    return tensor.data_ptr()


def cache_strides(k_BGSE: torch.Tensor, v_BGSE: torch.Tensor) -> tuple[int, int]:
    """Slot and head stride of the cache in elements; ValueError unless its rows are dense."""
    stride_b, stride_g, stride_s, stride_e = k_BGSE.stride()
    if (stride_s, stride_e) != (k_BGSE.shape[3], 1) or v_BGSE.stride() != k_BGSE.stride():
        raise ValueError(
            f"k_BGSE, v_BGSE: rows of the cache must be dense and both laid out alike, "
            f"got strides {k_BGSE.stride()} and {v_BGSE.stride()}"
        )
    return stride_b, stride_g


def expect_block_table(block_table_BT: torch.Tensor, B: int, page: int) -> None:
    """Raise ValueError unless this is a block table of B slots, for pages of a size the kernels know."""
    expect_shape("block_table_BT", block_table_BT, B, block_table_BT.shape[-1])
    expect_dtype("block_table_BT", block_table_BT, torch.int32)
    if page not in PAGE_SIZES:
        raise ValueError(f"k_BGSE, v_BGSE: pages of {page} rows; with a block table they hold one of {PAGE_SIZES}")


def expect_shape(name: str, tensor: Weight, *shape: int) -> None:
    """Raise ValueError naming the tensor unless it has exactly this shape."""
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")


def expect_dtype(name: str, tensor: torch.Tensor, *dtypes: torch.dtype) -> None:
    """Raise ValueError naming the tensor unless its dtype is one of these."""
    if tensor.dtype not in dtypes:
        expected = " or ".join(map(str, dtypes))
        raise ValueError(f"{name}: expected dtype {expected}, got {tensor.dtype}")


def expect_dtypes(dtype: torch.dtype, **tensors: torch.Tensor | None) -> None:
    """Raise ValueError naming the first of the tensors given by keyword that has another dtype."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype is not dtype:
            expect_dtype(name, tensor, dtype)


def expect_backend(op: Op, name: str, weight: Weight) -> None:
    """Raise ValueError naming the matrix if it is an int8 one and the op's backend for it reads no such."""
    if isinstance(weight, Int8Weight) and op(weight.device) not in (op.backends["ref"], op.backends.get("cpu")):
        backend = op.backend(weight.device.type)
        raise ValueError(f"{name}: int8 weights run on CPU only, not on backend {backend!r} of op {op.name!r}")
