"""Section b: how fast the GPU copies and reads memory, and what lies between two kernels of a graph."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .run import Job
from .timing import time_calls

BLOCK = 4096
STEPS = 16  # blocks a program reads
GAP_KERNELS = 200


@triton.jit
def _read_kernel(source, sums, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """Sum of STEPS blocks of int32: every byte is read once, a few are written."""
    first = tl.program_id(0).to(tl.int64) * (BLOCK * STEPS)
    total = tl.full((BLOCK,), 0, tl.int32)
    for step in range(STEPS):
        total += tl.load(source + first + step * BLOCK + tl.arange(0, BLOCK), eviction_policy="evict_first")
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def _small_kernel(x, PDL: tl.constexpr):
    """One block increments a few numbers: next to no work, but each launch needs the one before."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    at = x + tl.arange(0, 32)
    tl.store(at, tl.load(at) + 1)


def read_bandwidth(device: str, nbytes: int = 4 << 30) -> float:
    """GB/s at which a kernel reads a buffer that no cache holds."""
    source = torch.ones(nbytes // 4, dtype=torch.int32, device=device)
    programs = source.numel() // (BLOCK * STEPS)
    sums = torch.empty(programs, dtype=torch.int32, device=device)
    timing = time_calls([lambda: read(source, sums, programs)], device)
    assert sums[0].item() == BLOCK * STEPS
    return programs * BLOCK * STEPS * 4 / timing.us / 1e3


def read(source: Tensor, sums: Tensor, programs: int) -> None:
    """Sum the first blocks of `source` into `sums`."""
    _read_kernel[programs,](source, sums, BLOCK=BLOCK, STEPS=STEPS, num_warps=8)


def copy_bandwidth(device: str, nbytes: int = 4 << 30) -> float:
    """GB/s of a copy within the device's memory, bytes read and written together."""
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / time_calls([lambda: target.copy_(source)], device).us / 1e3


def kernel_gap(device: str, pdl: bool) -> float:
    """Microseconds per kernel of a graph of small dependent kernels: their own work and the gap between them."""
    x = torch.zeros(32, dtype=torch.int32, device=device)
    options = {"launch_pdl": True} if pdl else {}

    def launch() -> None:
        _small_kernel[1,](x, PDL=pdl, num_warps=1, **options)

    return time_calls([launch] * (GAP_KERNELS if device == "cuda" else 2), device).us


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report."""
    nbytes = 1 << 20 if job.small else 4 << 30
    found = {"copy_gb_per_s": copy_bandwidth(job.device, nbytes), "read_gb_per_s": read_bandwidth(job.device, nbytes)}
    found["kernel_us_in_graph"] = kernel_gap(job.device, pdl=False)
    if job.device == "cuda" and torch.cuda.get_device_capability() >= (9, 0):
        found["kernel_us_in_graph_pdl"] = kernel_gap(job.device, pdl=True)
    report["lines"] = [found]
    report["summary"] = [f"{name}: {value:.4g}" for name, value in found.items()]
