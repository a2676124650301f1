"""Section c: every Triton kernel at the shapes of four models, weights and caches cold, beside torch and FlashInfer."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.ops import bench_tree_attention
from bench.ops._bench import Case, Model
from pspec_rt import ops  # noqa: F401  (registers the ops)
from pspec_rt.ops._dispatch import REGISTRY

from .memory import read_bandwidth
from .run import Job
from .shapes import GPU_MODELS, LLAMA_8B, TINY
from .timing import Call, copies_for, tensors_in, time_calls

ROWS = (1, 8, 16, 32, 64)
PREFIXES = (1024, 8192, 32768)
COMPILERS = 8  # processes that compile ahead
COMPILE_SHARE = 0.45  # of the section's time, at most
# What matters most first: a section that runs out of time has measured it.
FIRST = ("linear", "tree_attention", "head_top_k")


def kernels() -> list[str]:
    """Ops with a Triton kernel."""
    names = [name for name, op in REGISTRY.items() if "triton" in op.backends]
    return sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def all_cases(models: Sequence[Model], rows: Sequence[int]) -> Iterator[tuple[str, Callable[[], Iterator[Case]]]]:
    """(op, cases) of every op, model and row count; the cases are made when they are asked for."""
    bench_tree_attention.PREFIXES = PREFIXES
    for op in kernels():
        cases = importlib.import_module(f"bench.ops.bench_{op}").cases
        for model in models:
            for R in rows:
                yield op, functools.partial(cases, model, R)


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report."""
    models, rows = ((TINY,), (1, 8)) if job.small else (GPU_MODELS, ROWS)
    if job.device == "cuda":
        compile_ahead(job.time_left() * COMPILE_SHARE)
    read = read_bandwidth(job.device, 1 << 20 if job.small else 4 << 30)
    report["read_gb_per_s"], report["complete"] = read, True
    with torch.device(job.device):
        for op, case in ((op, case) for op, cases in all_cases(models, rows) for case in cases()):
            if job.time_left() < 5:
                report["complete"] = False
                break
            report["lines"].append(measure(op, case, job.device, read))
    report["summary"] = summary(report["lines"], read)


def measure(op: str, case: Case, device: str, read: float) -> dict[str, Any]:
    """One line: microseconds, GB/s, fraction of the read bandwidth, the same of the comparators; or what went wrong."""
    line = {"op": op, "model": case.model, "rows": case.rows, "shape": case.shape, "bytes": case.bytes}
    try:
        variants = cold(case)
        timing = time_calls([bind(REGISTRY[op].backends["triton"], *v) for v in variants], device)
    except Exception as error:
        return line | {"error": f"{type(error).__name__}: {error}"[:500]}
    speed = case.bytes / timing.us / 1e3
    line |= {"us": timing.us, "us_p20": timing.us_p20, "us_p80": timing.us_p80}
    line |= {"gb_per_s": speed, "of_read_bandwidth": speed / read, "copies": len(variants)}
    for name, call in comparators(op, case):
        try:
            line[f"{name}_us"] = time_calls([bind(call, *v) for v in variants], device).us
        except Exception as error:
            line[f"{name}_error"] = f"{type(error).__name__}: {error}"[:300]
    return line


def bind(run: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Call:
    """The call as a function of nothing."""
    return functools.partial(run, *args, **kwargs)


def cold(case: Case) -> list[tuple[tuple, dict[str, Any]]]:
    """Arguments of several calls on different memory, together larger than the cache: weights of the pool follow each
    other, other tensors are copied."""
    first = case.make()
    if case.weights:
        return [first, *(case.make() for _ in range(copies_for(case.weights) - 1))]
    args, kwargs = first
    size = sum(tensor.nbytes for tensor in tensors_in(*args, *kwargs.values()))
    most = 1 if size < 1 << 20 else 16  # a layer's activations are in the cache: the kernel before has written them
    return [first, *((tuple(map(clone, args)), {k: clone(v) for k, v in kwargs.items()}) for _ in
                     range(min(copies_for(size), most) - 1))]  # fmt: skip


def clone(value: Any) -> Any:
    """A tensor's copy; anything else itself."""
    return value.clone() if isinstance(value, Tensor) else value


def comparators(op: str, case: Case) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Others that do the same: plain torch (cuBLAS, SDPA), and FlashInfer if it is there."""
    if case.torch is not None:
        yield "torch", case.torch
    if op == "tree_attention" and importlib.util.find_spec("flashinfer") is not None:
        yield "flashinfer", flashinfer_attention


def flashinfer_attention(
    q_BNHE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, prefix_B: Tensor, words_BN: Tensor, out_BNHE: Tensor, *,
    scale: float,
) -> Any:  # fmt: skip
    """FlashInfer's attention with a mask over prefix and tree, for one slot."""
    from flashinfer import single_prefill_with_kv_cache

    N = words_BN.shape[1]
    keys = k_BGSE.shape[2] - 64 + N  # the benchmark's caches end 64 rows behind the prefix
    mask_NS = torch.ones(N, keys, dtype=torch.bool, device=q_BNHE.device)
    mask_NS[:, keys - N :] = (words_BN[0, :, None] >> torch.arange(N, device=q_BNHE.device)) & 1 == 1
    k_GSE, v_GSE = k_BGSE[0, :, :keys], v_BGSE[0, :, :keys]
    return single_prefill_with_kv_cache(q_BNHE[0], k_GSE, v_GSE, custom_mask=mask_NS, kv_layout="HND", sm_scale=scale)


def compile_ahead(seconds: float) -> None:
    """Run every case once in several processes: Triton's cache on disk then has all kernels."""
    context = multiprocessing.get_context("spawn")
    end = time.time() + seconds
    workers = [context.Process(target=compile_share, args=(i, end)) for i in range(COMPILERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(end + 10 - time.time(), 0))
        if worker.is_alive():
            worker.terminate()


def compile_share(index: int, end: float) -> None:
    """One process's part of the cases; those that fail are reported when they are measured."""
    with torch.device("cuda"):
        for number, (op, cases) in enumerate(all_cases(GPU_MODELS, ROWS)):
            if number % COMPILERS != index:
                continue
            for case in cases():
                if time.time() > end:
                    return
                args, kwargs = case.make()
                try:
                    REGISTRY[op].backends["triton"](*args, **kwargs)
                except Exception:
                    break


def summary(lines: Sequence[dict[str, Any]], read: float) -> list[str]:
    """What the bars are about."""
    good = [line for line in lines if "us" in line]
    found = [f"{len(good)} of {len(lines)} lines measured, read bandwidth {read:.0f} GB/s"]
    for R in (1, 16, 64):
        big = [line for line in good if line["op"] == "linear" and line["model"] == LLAMA_8B.name and line["rows"] == R]
        if big:
            mean = math.exp(sum(math.log(line["of_read_bandwidth"]) for line in big) / len(big))
            slower = max((line["us"] / line["torch_us"] for line in big if "torch_us" in line), default=math.nan)
            found.append(f"linear, 8B, R = {R}: {mean:.0%} of read bandwidth, at worst {slower:.2f} x cuBLAS's time")
    for line in good:
        if line["op"] == "tree_attention" and line["model"] == LLAMA_8B.name and line["rows"] == 16:
            found.append(f"tree_attention, 8B, 16 rows, {line['shape']}: {line['us']:.1f} us")
    return found
