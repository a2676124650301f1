"""Section g: csrc/cuda/linear.cu beside Triton's linear and cuBLAS, and draft_forward in one launch beside op by op."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pspec_rt.triton_kernels import _linear_tiles as tiles
from torch import Tensor

from bench.ops import bench_draft_forward
from bench.ops._bench import Model
from pspec_rt import ops
from pspec_rt.ops._dispatch import REGISTRY, obstacle
from pspec_rt.ops.linear import linear_on_cuda
from pspec_rt.ref.draft_forward import draft_forward as composed

from .kernels import bind, cold
from .memory import read_bandwidth
from .run import Job
from .shapes import GPU_MODELS, LLAMA_8B, TINY, weights_of
from .timing import copies_for, time_calls

ROWS = (1, 8, 16, 32, 64)
DEPTHS = (4, 8)  # K of a draft
OPS = ("draft_inputs", "linear", "rope_append", "tree_attention", "add_rms_norm", "gather_features", "head_top_k")
Line = dict[str, Any]


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report, and write which weights the CUDA kernel is faster on to where the runtime reads."""
    models, rows = ((TINY,), (1,)) if job.small else (GPU_MODELS, ROWS)
    if job.device == "cuda" and (reason := obstacle("cuda", "cuda")):
        raise RuntimeError(reason)
    read = read_bandwidth(job.device, 1 << 20 if job.small else 4 << 30)
    report["read_gb_per_s"] = read
    with torch.device(job.device):
        for model in models:
            report["lines"] += draft_lines(model, job)
        for shape in dict.fromkeys(shape for model in models for shape in weights_of(model)[:-1]):
            if job.time_left() < 5:
                break
            report["lines"] += linear_lines(shape, rows, read, job)
    report["complete"] = job.time_left() >= 5
    write(report["lines"], job)
    report["summary"] = summary(report["lines"])


def linear_lines(shape: tuple[int, int], rows: Sequence[int], read: float, job: Job) -> Iterator[Line]:
    """A line per row count: microseconds of each, and the CUDA kernel's share of the read bandwidth."""
    (N, K), size = shape, 2 * math.prod(shape)
    pool = [torch.randn(N, K, dtype=torch.bfloat16) for _ in range(copies_for(size) if job.device == "cuda" else 2)]
    for R in rows:
        x_RK, out_RN = torch.randn(R, K, dtype=torch.bfloat16), torch.empty(R, N, dtype=torch.bfloat16)
        runs = {"triton": ops.linear, "torch": library}
        if job.device == "cuda":
            runs = {"cuda": linear_on_cuda, "triton": REGISTRY["linear"].backends["triton"], "torch": library}
        us = {}
        for name, call in runs.items():
            us[f"{name}_us"] = time_calls([functools.partial(call, x_RK, w_NK, out_RN) for w_NK in pool], job.device).us
        line = {"op": "linear", "N": N, "K": K, "rows": R, **us}
        yield line | ({"of_read_bandwidth": size / us["cuda_us"] / 1e3 / read} if "cuda_us" in us else {})


def library(x_RK: Tensor, w_NK: Tensor, out_RN: Tensor) -> None:
    torch.mm(x_RK, w_NK.T, out=out_RN)


def draft_lines(model: Model, job: Job) -> Iterator[Line]:
    """One launch against the ops it replaces, one after another on their fastest backends."""
    for K in DEPTHS[:1] if job.small else DEPTHS:
        for case in bench_draft_forward.cases(model, K):
            variants = cold(case) if job.device == "cuda" else [case.make()]
            runs: dict[str, Callable[..., None]] = {"ops_us": by_ops}
            if job.device == "cuda":
                runs["cuda_us"] = REGISTRY["draft_forward"].backends["cuda"]
            line = {"op": "draft_forward", "model": model.name, "K": K, "shape": case.shape, "bytes": case.bytes}
            yield line | {
                name: time_calls([bind(call, *v) for v in variants], job.device).us for name, call in runs.items()
            }


def by_ops(*args: Any, **kwargs: Any) -> None:
    """The pass as a drafter runs it without the one launch: the definition's composition, over the ops."""
    globals_of = composed.__globals__
    kept = {name: globals_of[name] for name in OPS}
    globals_of.update({name: getattr(ops, name) for name in OPS})
    try:
        composed(*args, **kwargs)
    finally:
        globals_of.update(kept)


def faster(lines: Sequence[Line]) -> list[str]:
    """Weights on which the CUDA kernel takes less time than Triton's, by the product over all row counts."""
    ratios: dict[str, float] = {}
    for line in (line for line in lines if "cuda_us" in line and line["op"] == "linear"):
        name = f"{line['N']}x{line['K']}"
        ratios[name] = ratios.get(name, 1.0) * line["cuda_us"] / line["triton_us"]
    return sorted(name for name, ratio in ratios.items() if ratio < 1)


def write(lines: Sequence[Line], job: Job) -> None:
    """The list of such weights, to the section's folder and to the place where the runtime reads."""
    table = json.loads(tiles.CUDA_FILE.read_text())
    table[f"sm_{tiles.arch_of(torch.device(job.device)) or 90}"] = faster(lines)
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    (job.out / tiles.CUDA_FILE.name).write_text(text)
    if not job.small:
        tiles.CUDA_FILE.write_text(text)
        tiles.cuda_is_faster.cache_clear()


def summary(lines: Sequence[Line]) -> list[str]:
    """What the bars are about: the 8B model's weights, and its drafter."""
    shapes = set(weights_of(LLAMA_8B))
    found = [f"csrc/cuda/linear.cu is faster than Triton on {', '.join(faster(lines)) or 'no weight'}"]
    for R in ROWS:
        big = [
            x for x in lines if x["op"] == "linear" and x["rows"] == R and (x["N"], x["K"]) in shapes and "cuda_us" in x
        ]
        if big:
            mean, triton, cublas = (
                math.exp(sum(math.log(value(x)) for x in big) / len(big))
                for value in (
                    lambda x: x["of_read_bandwidth"],
                    lambda x: x["cuda_us"] / x["triton_us"],
                    lambda x: x["cuda_us"] / x["torch_us"],
                )
            )
            found.append(
                f"linear, 8B, R = {R}: {mean:.0%} of read bandwidth, "
                f"{triton:.2f} x Triton's time, {cublas:.2f} x cuBLAS's"
            )
    for line in lines:
        if line["op"] == "draft_forward" and "cuda_us" in line:
            found.append(
                f"draft_forward, {line['model']}, K = {line['K']}, {line['shape']}: {line['cuda_us']:.0f} us, "
                f"op by op {line['ops_us']:.0f} us"
            )
    return found
