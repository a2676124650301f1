"""The emulated kernels of a round as the Python module `_emulated`, with the bindings that `_C` has for CUDA."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from pspec_rt.ops import _dispatch

from .build import CSRC, shared_library

OPS = (
    "draft_rows", "grow_tree", "prune_tree", "build_tree", "accept", "compact_kv", "move_rows", "ngram_draft",
    "blend_candidates",
)  # fmt: skip
SHUFFLED = 2


@cache
def emulated() -> Any:
    """The module, built at first use; threads take turns in a shuffled order."""
    import pybind11

    cuda = CSRC / "cuda"
    sources = [cuda / f"{op}.cu" for op in OPS] + [cuda / "loop_ops.cpp", cuda / "emulation" / "module.cpp"]
    flags = ["-I", pybind11.get_include(), "-I", sysconfig.get_paths()["include"]]
    path = shared_library("_emulated", sources, flags)
    spec = importlib.util.spec_from_file_location("_emulated", path)
    assert spec is not None and spec.loader is not None, "a shared library can be imported"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.set_order(SHUFFLED, 0)
    return module


@contextmanager
def emulated_op(op: str) -> Iterator[Any]:
    """Tensors on the CPU, the op's CUDA kernel."""
    module, entry = emulated(), _dispatch.REGISTRY[op]
    door = f"cuda_{op}"
    with (
        mock.patch.dict(_dispatch.native.__dict__, {door: getattr(module, door)}),
        mock.patch.object(_dispatch, "cuda_stream", lambda: 0),
        mock.patch.dict(entry._chosen, {"cpu": entry.backends["cuda"]}),
    ):
        yield module
