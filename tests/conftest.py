"""Seeds per test, and the `backend` parameter of the op tests."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import hypothesis
import numpy
import pytest
import torch

from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY, native
from tests.tiny import smollm2  # noqa: F401  (a fixture)

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
    names = ["ref", *(_native_names(op) if "cpu" in REGISTRY[op].backends else [])]
    metafunc.parametrize("backend", [_param(name) for name in names], indirect=True)


def _op_of(module_name: str) -> str:
    return module_name.rpartition("test_")[2]


def _native_names(op: str) -> list[str]:
    if op not in SIMD_OPS or not native.available:
        return ["cpu"]
    return [f"cpu-{isa}" for isa in native.build_info()["isas"]]


def _param(name: str) -> object:
    missing = name != "ref" and not native.available
    mark = pytest.mark.skipif(missing, reason="pspec_rt._C is not built (pip install -e .)")
    return pytest.param(name, marks=mark)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the op of this file on one backend ("ref" or "cpu"); the other ops keep theirs."""
    name, _, isa = request.param.partition("-")
    monkeypatch.setenv("PSPEC_BACKEND", f"{_op_of(request.module.__name__)}:{name}")
    ops.choose_backends("cpu")
    if isa:
        native.set_isa(isa)
    yield name
    if isa:
        native.set_isa("")
    monkeypatch.undo()
    ops.choose_backends("cpu")


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore torch's and the native module's thread counts after a test that changes them."""
    before = torch.get_num_threads()
    native_before = native.num_threads() if native.available else 0
    yield
    torch.set_num_threads(before)
    if native.available:
        native.set_num_threads(native_before)
