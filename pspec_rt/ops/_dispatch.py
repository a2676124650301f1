"""Which backend runs each op, the door to the native module, and the shape checks all ops share."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch

from .. import env
from ..errors import ConfigError

log = logging.getLogger("pspec_rt")

# Preference per device type; `ref` is the definition and always there.
PREFERENCE = {"cpu": ("cpu", "ref"), "cuda": ("cuda", "ref")}
REGISTRY: dict[str, Op] = {}
DTYPE_CODE = {torch.float32: 0, torch.bfloat16: 1}  # as in csrc/params.h


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
        return getattr(module, name)


native = _Native()


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
        """Name of the backend for a device type; ConfigError if a forced one does not exist."""
        forced = env.forced_backends()
        name = forced.get(self.name, forced.get("*"))
        if name is not None:
            if name not in self.backends:
                raise ConfigError(
                    f"PSPEC_BACKEND: op {self.name!r} has no backend {name!r}, only {sorted(self.backends)}"
                )
            return name
        for name in PREFERENCE.get(device_type, ("ref",)):
            if name in self.backends and (name != "cpu" or native.available):
                return name
        return "ref"

    def _choose(self, device_type: str) -> Callable[..., None]:
        self._chosen[device_type] = self.backends[self.backend(device_type)]
        return self._chosen[device_type]


def choose_backends(device_type: str) -> dict[str, str]:
    """Choose every op's backend anew (reads PSPEC_BACKEND): {op: backend}, also logged in one line.

    Raises ConfigError if PSPEC_BACKEND names an unknown op, or a backend an op does not have.
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


def ptr(tensor: torch.Tensor | None) -> int:
    """Address of a tensor's data for a native call, 0 for None; ValueError if not contiguous."""
    if tensor is None:
        return 0
    if not tensor.is_contiguous():
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


def expect_shape(name: str, tensor: torch.Tensor, *shape: int) -> None:
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
