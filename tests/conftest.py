"""Seeds per test, and the `backend` parameter of the op tests."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
from collections.abc import Iterator

import hypothesis
import numpy
import pytest
import torch

from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY, native, obstacle
from tests.cuda.build import COMPILER
from tests.cuda.module import OPS as EMULATED_OPS
from tests.cuda.module import emulated_op
from tests.tiny import smollm2  # noqa: F401  (a fixture)

# Before a kernel file is imported: without a GPU, Triton kernels run in its interpreter, on CPU tensors.
GPU = torch.cuda.is_available()
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"

# An example is a few tensor ops: no deadline, as a loaded machine is slow; `backend` may be shared
# by examples.
hypothesis.settings.register_profile(
    "pspec",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("pspec")

# Native ops with code per instruction set: tested on each one this CPU can run.
SIMD_OPS = {
    "linear", "tree_attention", "head_top_k", "gumbel_noise", "add_rms_norm", "silu_mul", "rope_append",
    "select_tokens",
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> None:
    """The random numbers of a test depend on its name alone, not on which tests ran before."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    value = int.from_bytes(digest[:4], "little")
    torch.manual_seed(value)
    random.seed(value)
    numpy.random.seed(value)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """tests/ops/test_<op>.py: a test with a `backend` argument runs on every backend of <op>."""
    if "backend" not in metafunc.fixturenames:
        return
    op = _op_of(metafunc.module.__name__)
    backends = REGISTRY[op].backends
    names = ["ref", *(_native_names(op) if "cpu" in backends else []), *(["triton"] if "triton" in backends else [])]
    names += ["cuda"] if op in EMULATED_OPS else []
    metafunc.parametrize("backend", [_param(name) for name in names], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs kernels on a GPU is marked so."""
    for item in items:
        if GPU and "triton_device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


def _op_of(module_name: str) -> str:
    return module_name.rpartition("test_")[2]


def _native_names(op: str) -> list[str]:
    if op not in SIMD_OPS or not native.available:
        return ["cpu"]
    return [f"cpu-{isa}" for isa in native.build_info()["isas"]]


def _param(name: str) -> object:
    missing = _MISSING[name]() if name in _MISSING else obstacle(name.partition("-")[0], "cpu")
    marks = [pytest.mark.skipif(bool(missing), reason=str(missing))]
    return pytest.param(name, marks=[*marks, *([pytest.mark.gpu] if name == "triton" and GPU else [])])


def _triton_missing() -> str | None:
    return obstacle("triton", "cuda" if GPU else "cpu") or (None if GPU else _interpreter_fault())


def _emulation_missing() -> str | None:
    return None if COMPILER else "needs g++ to build the emulated CUDA kernels"


_MISSING = {"triton": _triton_missing, "cuda": _emulation_missing}


def _interpreter_fault() -> str | None:
    """Why Triton's interpreter cannot be used here."""
    import triton

    versions = triton.__version__, numpy.__version__
    old, new = (tuple(map(int, version.split(".")[:2])) for version in versions)
    if old < (3, 7) and new >= (2, 4):
        return f"the interpreter of triton {versions[0]} fails with numpy {versions[1]}: numpy < 2.4 works"
    return None


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the op of this file on one backend ("ref", "cpu", "triton" or "cuda"); the other ops keep theirs.

    On a machine with a GPU, "triton" makes it the device on which tensors are created. "cuda" is the CUDA kernel run
    on the host, by csrc/cuda/emulation.
    """
    name, _, isa = request.param.partition("-")
    if name == "cuda":
        with emulated_op(_op_of(request.module.__name__)):
            yield name
        return
    device = "cuda" if name == "triton" and GPU else "cpu"
    monkeypatch.setenv("PSPEC_BACKEND", f"{_op_of(request.module.__name__)}:{name}")
    ops.choose_backends(device)
    if isa:
        native.set_isa(isa)
    with contextlib.ExitStack() as stack:
        if device != "cpu":
            stack.enter_context(torch.device(device))
        yield name
    if isa:
        native.set_isa("")
    monkeypatch.undo()
    ops.choose_backends("cpu")


@pytest.fixture
def triton_device() -> Iterator[torch.device]:
    """For tests that call launchers: tensors are created on the GPU if there is one, or kernels interpreted."""
    if missing := _triton_missing():
        pytest.skip(missing)
    with torch.device("cuda" if GPU else "cpu") as device:
        yield device


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore torch's and the native module's thread counts after a test that changes them."""
    before = torch.get_num_threads()
    native_before = native.num_threads() if native.available else 0
    yield
    torch.set_num_threads(before)
    if native.available:
        native.set_num_threads(native_before)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """The command line sets the level of the package's log for its process: not for the tests that come after."""
    log = logging.getLogger("pspec_rt")
    level = log.level
    yield
    log.setLevel(level)
