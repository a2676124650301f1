"""What the kernels share: bf16 in the interpreter, launch options."""

from __future__ import annotations

import pytest
import torch

from pspec_rt.errors import ConfigError
from tests.ops.cases import bits

triton = pytest.importorskip("triton")
tl = triton.language
from pspec_rt.triton_kernels import _common  # noqa: E402
from pspec_rt.triton_kernels._common import launch_options, narrow, upcast, widen  # noqa: E402


@triton.jit
def _convert_kernel(
    x,
    out,
    COUNT: tl.constexpr,
    UPCAST: tl.constexpr,
    PDL: tl.constexpr,  # as every kernel
):
    i = tl.arange(0, COUNT)
    tl.store(out + i, narrow(widen(tl.load(x + i), UPCAST), out.dtype.element_ty, UPCAST))


def converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(len(x), dtype=dtype)
    _convert_kernel[(1,)](x, out, COUNT=len(x), UPCAST=upcast(x, out), **launch_options(out))
    return out


@pytest.mark.usefixtures("triton_device")
def test_rounding_to_bf16() -> None:
    """Random bits: all magnitudes, halves between two bf16, NaN, infinities, subnormals."""
    patterns = torch.randint(-(2**31), 2**31, (2**14,), dtype=torch.int64).to(torch.int32)
    patterns[: 2**13] &= ~0xFFFF
    patterns[: 2**13] |= torch.tensor([0x7FFF, 0x8000, 0x8001, 0])[torch.randint(0, 4, (2**13,))].int()
    patterns[:6] = torch.tensor([0x7F7FFFFF, 0x7F800000, -0x800000, 0x7FFFFFFF, 1, -(2**31)], dtype=torch.int32)
    x = patterns.view(torch.float32)
    rounded, expected = converted(x, torch.bfloat16), x.bfloat16()
    assert torch.equal(rounded.isnan(), expected.isnan())
    assert torch.equal(bits(rounded)[~x.isnan()], bits(expected)[~x.isnan()])


@pytest.mark.usefixtures("triton_device")
def test_bf16_is_widened_exactly() -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    assert torch.equal(bits(converted(x, torch.float32))[~x.isnan()], bits(x.float())[~x.isnan()])


def test_upcast_is_for_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    bf16, fp32 = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert upcast(fp32, None, bf16) and not upcast(fp32, None)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not upcast(bf16)


def test_programmatic_launch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, off = torch.zeros(1), {"PDL": False, "enable_fp_fusion": True}
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    for wish, capability, on in [("0", (9, 0), False), ("1", (8, 9), False), ("1", (9, 0), True), ("1", (10, 0), True)]:
        monkeypatch.setenv("PSPEC_PDL", wish)
        monkeypatch.setattr(_common, "capability", lambda device, capability=capability: capability)
        assert launch_options(x) == (off | {"PDL": True, "launch_pdl": True} if on else off)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert launch_options(x, fp_fusion=False) == {"PDL": False, "enable_fp_fusion": False}
    monkeypatch.setenv("PSPEC_PDL", "yes")
    with pytest.raises(ConfigError, match="PSPEC_PDL='yes'"):
        launch_options(x)
