"""The runner of all op benchmarks: backends and plain torch in turn on the same data, times, bytes per second."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pspec_rt.measure.bandwidth import read_bandwidth, streaming_buffer
from pspec_rt.measure.meta import conditions
from pspec_rt.measure.run import set_threads
from pspec_rt.ops._dispatch import REGISTRY, obstacle

SAMPLE_SECONDS = 2e-3  # of calls between two clock readings
# Untimed calls before a sample: torch's OpenMP threads go on spinning for a while after their last call, on cores that
# the next one needs, and threads just woken share a core with their waker until the system moves them.
SETTLE_SECONDS = 20e-3
SAMPLES, QUICK_SAMPLES = 11, 5
MOST_WEIGHT_BYTES = 2 << 30
ROWS = (1, 2, 4, 8, 16, 32, 64)
BF16 = torch.bfloat16
Run = Callable[..., Any]


@dataclass(frozen=True)
class Model:
    """Sizes of a target model; letters as in `pspec_rt.step`."""

    name: str
    M: int
    H: int
    G: int
    E: int
    I: int
    V: int
    L: int


MODELS = (
    Model("SmolLM2-135M", M=576, H=9, G=3, E=64, I=1536, V=49152, L=30),
    Model("Qwen2.5-0.5B", M=896, H=14, G=2, E=64, I=4864, V=151936, L=24),
    Model("Llama-3.2-1B", M=2048, H=32, G=8, E=64, I=8192, V=128256, L=16),
)


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        shape: what is computed, e.g. "8 x 576 -> 1536".
        make: gives (args, kwargs) of one call of the op.
        bytes: read and written by a call.
        weights: bytes of it that `make` took from `weights()`: calls go through as many copies as the pool holds.
        reset: undoes what a call changed, for ops whose second call would find nothing to do; not timed.
        torch: the fastest plain torch expression for the same, called as the op is; None: that is `ref`.
    """

    model: str
    rows: int
    shape: str
    make: Callable[[], tuple[tuple, dict[str, Any]]]
    bytes: int
    weights: int = 0
    reset: Callable[[tuple], None] | None = None
    torch: Run | None = None


@dataclass(frozen=True)
class Line:
    """One measured line: microseconds per call (median, 20th and 80th percentile), GB/s, and the same in torch.

    `of_read_bandwidth`: GB/s over the read bandwidth; None if that could not be measured. `over_torch`: torch's median
    over this one.
    """

    op: str
    model: str
    rows: int
    shape: str
    backend: str
    us: float
    us_p20: float
    us_p80: float
    gb_per_s: float
    of_read_bandwidth: float | None
    torch_us: float
    over_torch: float


def bf16(*shape: int) -> Tensor:
    """Random bf16 values of the size activations have."""
    return torch.randn(*shape, dtype=BF16)


def i32(x: Tensor | list) -> Tensor:
    """An int32 tensor."""
    return torch.as_tensor(x, dtype=torch.int32)


def nbytes(*tensors: Tensor) -> int:
    """Bytes of all tensors together."""
    return sum(tensor.nbytes for tensor in tensors)


class WeightPool:
    """Random bf16 memory, larger than the last-level cache, that weight matrices are cut from, one after the other.

    Matrices are consecutive parts, and after the last one it starts anew: what a call reads has left the cache since it
    was last read, as in a model whose layers take turns.
    """

    def __init__(self) -> None:
        on_gpu = torch.get_default_device().type == "cuda"
        memory = torch.empty(MOST_WEIGHT_BYTES, dtype=torch.uint8) if on_gpu else streaming_buffer(MOST_WEIGHT_BYTES)
        self._values = memory.view(BF16)
        pattern = bf16(1 << 20)
        for part in self._values.split(pattern.numel()):
            part.copy_(pattern[: part.numel()])
        self._next = 0

    @property
    def nbytes(self) -> int:
        return self._values.nbytes

    def take(self, *shape: int) -> Tensor:
        """The next matrix."""
        size = torch.Size(shape).numel()
        assert size <= self._values.numel(), "free memory: a weight matrix is larger than a quarter of what there is"
        begin = self._next if self._next + size <= self._values.numel() else 0
        self._next = begin + -(-size // 32) * 32  # whole cache lines
        return self._values[begin : begin + size].view(shape)


@cache
def pool() -> WeightPool:
    """The one pool of the process, filled when the first op asks for weights."""
    return WeightPool()


def weights(*shape: int) -> Tensor:
    """A bf16 weight matrix that is not in the cache; see `WeightPool`."""
    return pool().take(*shape)


def backends_of(op: str, wanted: str | None = None, device: str = "cpu") -> dict[str, Run]:
    """The backends of an op that can run here, ref first; only `wanted` if it is one of them, else only ref."""
    backends = REGISTRY[op].backends
    names = ("ref", "triton", "cuda") if device == "cuda" else ("ref", "cpu")
    usable = {name: backends[name] for name in names if name in backends and obstacle(name, device) is None}
    if wanted is not None:
        name = wanted if wanted in usable else "ref"
        usable = {name: usable[name]}
    return usable


def measure(op: str, case: Case, backends: Mapping[str, Run], samples: int, gbs: float | None) -> Iterator[Line]:
    """Time a case on backends and in torch: one sample each in turn, so that a slow moment of the machine hits all."""
    contenders = {**backends, "torch": case.torch or REGISTRY[op].backends["ref"]}
    copies = max(1, pool().nbytes // case.weights) if case.weights else 1
    calls = itertools.cycle([case.make() for _ in range(copies)])
    repeats = {name: _repeats(run, calls, case) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(samples):
        for name, run in contenders.items():
            times[name].append(_sample(run, calls, case, repeats[name]))
    us = {name: numpy.percentile(seconds, (50, 20, 80)) * 1e6 for name, seconds in times.items()}
    return _lines(op, case, us, gbs)


def measure_on_gpu(
    op: str, case: Case, backends: Mapping[str, Run], gbs: float | None, device: str = "cuda"
) -> Iterator[Line]:
    """The same on a GPU: calls on copies of the data that together exceed its L2 cache, in a CUDA graph."""
    from bench.gpu.kernels import bind, cold  # which imports this module
    from bench.gpu.timing import time_calls

    variants, us = cold(case), {}
    for name, run in {**backends, "torch": case.torch or REGISTRY[op].backends["ref"]}.items():
        timing = time_calls([bind(run, *variant) for variant in variants], device)
        us[name] = (timing.us, timing.us_p20, timing.us_p80)
    return _lines(op, case, us, gbs)


def _lines(op: str, case: Case, us: Mapping[str, Sequence[float]], gbs: float | None) -> Iterator[Line]:
    """The lines of a case from microseconds per call (median, 20th and 80th percentile) of backends and "torch"."""
    torch_us = float(us["torch"][0])
    for name in us:
        if name == "torch":
            continue
        median, p20, p80 = map(float, us[name])
        speed = case.bytes / median / 1e3
        fraction = None if gbs is None else speed / gbs
        place = (op, case.model, case.rows, case.shape, name)
        yield Line(*place, median, p20, p80, speed, fraction, torch_us, torch_us / median)


def _repeats(run: Run, calls: Iterator, case: Case) -> int:
    _sample(run, calls, case, 1)  # first touch
    return 1 if case.reset else max(1, round(SAMPLE_SECONDS / _sample(run, calls, case, 2)))


def _sample(run: Run, calls: Iterator, case: Case, repeats: int) -> float:
    """Seconds per call. The calls go on where the last sample ended, whoever took it."""
    settled = time.perf_counter() + SETTLE_SECONDS
    while time.perf_counter() < settled and not case.reset:
        args, kwargs = next(calls)
        run(*args, **kwargs)
    todo = list(itertools.islice(calls, repeats))
    if case.reset:
        case.reset(todo[0][0])
    start = time.perf_counter()
    for args, kwargs in todo:
        run(*args, **kwargs)
    return (time.perf_counter() - start) / repeats


COLUMNS = f"{'':16} {'rows':>4}  {'shape':30} {'backend':7} {'us':>9} {'p20':>9} {'p80':>9} {'GB/s':>7} {'of read':>7}"


def print_table(op: str, lines: Iterable[Line]) -> Iterator[Line]:
    """Print lines as they come."""
    print(f"{op}\n{COLUMNS} {'torch us':>9} {'x torch':>7}")
    for line in lines:
        fraction = "" if line.of_read_bandwidth is None else f"{line.of_read_bandwidth:.0%}"
        print(
            f"{line.model:16} {line.rows:4}  {line.shape:30} {line.backend:7} {line.us:9.1f} {line.us_p20:9.1f} "
            f"{line.us_p80:9.1f} {line.gb_per_s:7.2f} {fraction:>7} {line.torch_us:9.1f} {line.over_torch:7.2f}",
            flush=True,
        )
        yield line


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that a benchmark of one op and one of all ops share."""
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the numbers to this file")
    parser.add_argument("--quick", action="store_true", help="one model, two row counts, few samples")
    parser.add_argument("--models", metavar="MODEL,...", help=f"of {', '.join(model.name for model in MODELS)}")
    parser.add_argument("--rows", metavar="N,...", help="row counts: tree nodes, path slots or drafted tokens")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where tensors are (default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the kernels and of torch (default: all cores)")


def chosen_models(names: str | None) -> tuple[Model, ...]:
    """The models of a comma-separated list; all by default."""
    known = {model.name: model for model in MODELS}
    return MODELS if names is None else tuple(known[name] for name in choices("model", names, known))


def choices(what: str, names: str, known: Iterable[str]) -> list[str]:
    """The names of a comma-separated list; SystemExit for one that is not known."""
    chosen, possible = [name.strip() for name in names.split(",")], list(known)
    for name in chosen:
        if name not in possible:
            raise SystemExit(f"unknown {what} {name!r}: choose from {', '.join(possible)}")
    return chosen


def device_bandwidth(device: str) -> tuple[float | None, dict[str, Any] | None]:
    """GB/s at which memory is read, and how that was measured."""
    if device == "cuda":
        from bench.gpu.memory import read_bandwidth as read_on_gpu  # needs Triton

        gbs = read_on_gpu(device)
        return gbs, {"gbs": gbs, "gpu": torch.cuda.get_device_name()}
    bandwidth = read_bandwidth()
    return (None, None) if bandwidth is None else (bandwidth.gbs, asdict(bandwidth))


def run_benchmarks(
    ops: Mapping[str, Callable[[Model, int], Iterable[Case]]],
    args: argparse.Namespace,
    rows: Sequence[int],
    backend: str | None = None,
) -> None:
    """Measure ops as the command line says; `ops[op](model, rows)` gives an op's cases."""
    torch.manual_seed(0)
    threads = set_threads(args.threads)
    models = chosen_models(args.models)
    counts = sorted(int(n) for n in args.rows.split(",")) if args.rows else sorted(rows)
    if args.quick:
        models, counts = models[:1], sorted({counts[0], counts[len(counts) // 2]})
    gbs, bandwidth = device_bandwidth(args.device)
    print(f"{threads} threads, read bandwidth {'not measured' if gbs is None else f'{gbs:.1f} GB/s'}")
    lines: list[Line] = []
    samples = QUICK_SAMPLES if args.quick else SAMPLES
    # A device as context slows every access to a tensor from Python, which is part of what is timed on a CPU.
    with torch.device(args.device) if args.device != "cpu" else nullcontext():
        for op, cases in ops.items():
            todo = (case for model in models for count in counts for case in cases(model, count))
            backends = backends_of(op, backend, args.device)
            if args.device == "cuda":
                if not backends.keys() - {"ref"}:
                    print(f"{op}: no kernel for GPUs")
                    continue
                # What must be undone after each call is measured by `bench.gpu --only commit`.
                repeatable = (case for case in todo if case.reset is None)
                measured = (line for case in repeatable for line in measure_on_gpu(op, case, backends, gbs))
            else:
                measured = (line for case in todo for line in measure(op, case, backends, samples, gbs))
            lines += print_table(op, measured)
    if args.json:
        meta = conditions() | {"threads": threads, "device": args.device, "read_bandwidth": bandwidth}
        meta["weight_pool_bytes"] = pool().nbytes if pool.cache_info().currsize else None
        args.json.write_text(json.dumps({"meta": meta, "lines": [asdict(x) for x in lines]}, indent=1) + "\n")


def main(op: str, cases: Callable[[Model, int], Iterable[Case]], rows: Sequence[int] = ROWS) -> None:
    """Command line of one op's benchmark; `cases(model, rows)` gives its shapes."""
    parser = argparse.ArgumentParser(description=f"Time the op {op} on each of its backends, and in plain torch.")
    add_options(parser)
    run_benchmarks({op: cases}, parser.parse_args(), rows)
