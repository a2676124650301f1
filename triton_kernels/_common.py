"""What all kernels share: bf16 under the interpreter, programmatic launch, specialisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import env

SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes of a block; the compiler does not check it

BLOCK = 1024  # columns of a program in element-wise kernels: 4 warps of 32 lanes with 16 bytes of bf16 each


@dataclass(frozen=True)
class Specialization:
    """One compilation of a kernel, as the launcher would ask for it.

    Args:
        kernel: the `@triton.jit` function.
        signature: argument to Triton type ("*bf16", "i32", "fp32", ..), constexprs left out.
        constexprs: every constexpr argument's value.
        num_warps, num_stages: launch options.
        divisible: arguments known to be divisible by 16 (pointers by 16 bytes).
        name: what tells it from the kernel's others.
        fp_fusion: as given to `launch_options`.
        min_arch: first architecture it exists for (90 with PDL).
    """

    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, object]
    num_warps: int = 4
    num_stages: int = 3
    divisible: tuple[str, ...] = ()
    name: str = ""
    fp_fusion: bool = True
    min_arch: int = 80


def row_specializations(kernel: Any, source: str, out: str, columns: str, *strides: str) -> list[Specialization]:
    """Of an element-wise kernel over rows, whose arguments these are; one block of BLOCK columns per program."""
    arguments = (source, out, columns, *strides)
    return [
        Specialization(
            kernel,
            {name: f"*{dtype}" if name in (source, out) else "i32" for name in arguments},
            {"BLOCK": BLOCK, "UPCAST": False, "PDL": pdl},
            divisible=arguments,
            name=f"{dtype}{'-pdl' * pdl}",
            min_arch=90 if pdl else 80,
        )
        for dtype, pdl in [("bf16", False), ("bf16", True), ("fp32", False)]
    ]


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return env.triton_interprets()


def upcast(*tensors: Tensor | None) -> bool:
    """The UPCAST argument of a kernel over these tensors: its bf16 must go through `widen` and `narrow` bit by bit."""
    return interpreting() and any(t is not None and t.dtype is torch.bfloat16 for t in tensors)


def launch_options(tensor: Tensor, *, fp_fusion: bool = True) -> dict[str, bool]:
    """Launch arguments every kernel gets: PDL, and what the compiler shall do with a * b + c.

    PDL is on if PSPEC_PDL asks for it, on a GPU of sm_90 or later. Whether the compiler fuses is always said, as its
    default differs between versions of Triton.
    """
    if not env.pdl() or interpreting() or capability(tensor.device) < (9, 0):
        return {"PDL": False, "enable_fp_fusion": fp_fusion}
    return {"PDL": True, "launch_pdl": True, "enable_fp_fusion": fp_fusion}


@lru_cache(maxsize=16)
def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def device_function(function: Callable) -> Callable:
    """`@triton.jit` for functions that kernels call. The interpreter gets them as they are, which is what it makes of
    them anyhow, at a fifth of a millisecond a call."""
    return function if interpreting() else triton.jit(function)


@device_function
def widen(x, UPCAST: tl.constexpr):
    """x as fp32."""
    if UPCAST and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@device_function
def narrow(x, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """fp32 x rounded to nearest even in dtype; the interpreter's own conversion to bf16 truncates."""
    if UPCAST and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = tl.where(x == x, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)  # a carry could end a NaN
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)
