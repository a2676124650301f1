"""The choice of backends, and the checks every op shares."""

from __future__ import annotations

import logging

import pytest
import torch

from pspec_rt import ops
from pspec_rt.errors import ConfigError
from pspec_rt.ops import _dispatch
from pspec_rt.ops._dispatch import REGISTRY, Op, expect_dtype, expect_dtypes, expect_shape, native, ptr


@pytest.fixture(autouse=True)
def default_backends(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Start and end with the backends of a user without PSPEC_BACKEND."""
    monkeypatch.delenv("PSPEC_BACKEND", raising=False)
    yield monkeypatch
    monkeypatch.undo()
    ops.choose_backends("cpu")


def test_every_op_is_exported_and_registered() -> None:
    assert set(REGISTRY) == set(ops.__all__) - {"choose_backends"}
    assert all("ref" in op.backends for op in REGISTRY.values())


def test_native_is_preferred_where_it_is_built(default_backends: pytest.MonkeyPatch) -> None:
    table = ops.choose_backends("cpu")
    for name, op in REGISTRY.items():
        assert table[name] == ("cpu" if "cpu" in op.backends and native.available else "ref")
    assert set(ops.choose_backends("meta").values()) == {"ref"}


def test_without_the_native_module_everything_runs_on_ref(default_backends: pytest.MonkeyPatch) -> None:
    class Missing:
        available = False

    default_backends.setattr(_dispatch, "native", Missing())
    assert set(ops.choose_backends("cpu").values()) == {"ref"}


def test_forcing(default_backends: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    default_backends.setenv("PSPEC_BACKEND", "ref")
    assert set(ops.choose_backends("cpu").values()) == {"ref"}
    default_backends.setenv("PSPEC_BACKEND", "linear:ref, accept:cpu")
    with caplog.at_level(logging.INFO, logger="pspec_rt"):
        table = ops.choose_backends("cpu")
    assert table["linear"] == "ref" and table["accept"] == "cpu"
    assert "linear=ref" in caplog.records[-1].message


@pytest.mark.parametrize(
    "value, message",
    [
        ("embed:tpu", "op 'embed' has no backend 'tpu'"),
        ("nonsense:ref", r"unknown ops \['nonsense'\]"),
        ("linear:", "'linear:' is not BACKEND or OP:BACKEND"),
    ],
)
def test_impossible_wishes(default_backends: pytest.MonkeyPatch, value: str, message: str) -> None:
    default_backends.setenv("PSPEC_BACKEND", value)
    with pytest.raises(ConfigError, match=message):
        ops.choose_backends("cpu")


def built_with_cuda() -> bool:
    return _dispatch.native.available and _dispatch.native.build_info()["cuda"]


def test_triton_is_for_gpus(default_backends: pytest.MonkeyPatch) -> None:
    default_backends.setattr(_dispatch.importlib.util, "find_spec", lambda name: object())
    default_backends.setenv("TRITON_INTERPRET", "1")
    assert "triton" not in ops.choose_backends("cpu").values()  # never chosen unless forced
    table = ops.choose_backends("cuda")
    cuda = {name for name, op in REGISTRY.items() if "cuda" in op.backends} if built_with_cuda() else set()
    assert {name for name, backend in table.items() if backend == "cuda"} == cuda
    rest = {name: "triton" if "triton" in op.backends else "ref" for name, op in REGISTRY.items() if name not in cuda}
    assert rest.items() <= table.items()
    default_backends.setenv("PSPEC_BACKEND", "silu_mul:triton")
    assert ops.choose_backends("cpu")["silu_mul"] == "triton"
    default_backends.setenv("TRITON_INTERPRET", "0")
    assert ops.choose_backends("cuda")["silu_mul"] == "triton"
    with pytest.raises(ConfigError, match="'silu_mul' cannot run on backend 'triton'.*TRITON_INTERPRET=1"):
        ops.choose_backends("cpu")


def test_without_triton(default_backends: pytest.MonkeyPatch) -> None:
    default_backends.setattr(_dispatch.importlib.util, "find_spec", lambda name: None)
    assert set(ops.choose_backends("cuda").values()) <= {"cuda", "ref"}
    default_backends.setenv("PSPEC_BACKEND", "silu_mul:triton")
    with pytest.raises(ConfigError, match="triton is not installed"):
        ops.choose_backends("cuda")


def test_an_op_chooses_once_per_device_type(default_backends: pytest.MonkeyPatch) -> None:
    default_backends.setattr(_dispatch, "REGISTRY", {})
    op = Op("tried", ref=lambda: None, cpu=lambda: None)
    default_backends.setenv("PSPEC_BACKEND", "tried:ref")
    assert op(torch.device("cpu")) is op.backends["ref"]
    default_backends.setenv("PSPEC_BACKEND", "tried:cpu")
    assert op(torch.device("cpu")) is op.backends["ref"]  # until choose_backends


def test_checks() -> None:
    x = torch.zeros(2, 3)
    expect_shape("x", x, 2, 3)
    expect_dtype("x", x, torch.bfloat16, torch.float32)
    expect_dtypes(torch.float32, x=x, absent=None)
    with pytest.raises(ValueError, match=r"x: expected shape \(3, 2\), got \(2, 3\)"):
        expect_shape("x", x, 3, 2)
    with pytest.raises(ValueError, match="x: expected dtype torch.int32 or torch.int64"):
        expect_dtype("x", x, torch.int32, torch.int64)
    with pytest.raises(ValueError, match="y: expected dtype"):
        expect_dtypes(torch.int32, x=None, y=x)


def test_addresses() -> None:
    x = torch.zeros(2, 3)
    assert ptr(x) == x.data_ptr() and ptr(None) == 0
    with pytest.raises(ValueError, match=r"contiguous tensors, got shape \(3, 2\)"):
        ptr(x.T)
