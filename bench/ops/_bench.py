"""The runner the op benchmarks share: backends in turn on the same data, medians, bytes per second."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pspec_rt.measure.meta import conditions
from pspec_rt.ops._dispatch import REGISTRY, native

SAMPLE_SECONDS = 2e-3  # of calls between two clock readings
COLD_BYTES = 256 << 20  # copies to rotate through, so that weights come from memory as they do in a model
ROWS = (1, 2, 4, 8, 16, 32, 64)
BF16 = torch.bfloat16


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
        cold: rotate through copies larger than a cache (ops that stream weights).
        reset: undoes what a call changed, for ops whose second call would find nothing to do; not timed.
    """

    model: str
    rows: int
    shape: str
    make: Callable[[], tuple[tuple, dict[str, Any]]]
    bytes: int
    cold: bool = False
    reset: Callable[[tuple], None] | None = None


@dataclass(frozen=True)
class Line:
    """One measured line: median microseconds per call and GB/s."""

    model: str
    rows: int
    shape: str
    backend: str
    us: float
    gb_per_s: float
    times_ref: float


def bf16(*shape: int) -> Tensor:
    """Random bf16 values of the size activations have."""
    return torch.randn(*shape, dtype=BF16)


def i32(x: Tensor | list) -> Tensor:
    """An int32 tensor."""
    return torch.as_tensor(x, dtype=torch.int32)


def nbytes(*tensors: Tensor) -> int:
    """Bytes of all tensors together."""
    return sum(tensor.nbytes for tensor in tensors)


def backends_of(op: str) -> dict[str, Callable[..., None]]:
    """The backends of an op that can run here, ref first."""
    usable = {name: run for name, run in REGISTRY[op].backends.items() if name == "ref"}
    if native.available and "cpu" in REGISTRY[op].backends:
        usable["cpu"] = REGISTRY[op].backends["cpu"]
    return usable


def measure(op: str, case: Case, samples: int) -> Iterator[Line]:
    """Time a case on every backend: one sample each in turn, so that a slow moment of the machine hits all."""
    copies = max(1, min(256, COLD_BYTES // case.bytes)) if case.cold else 1
    calls = [case.make() for _ in range(copies)]
    backends = backends_of(op)
    repeats = {name: _repeats(run, calls, case) for name, run in backends.items()}
    times: dict[str, list[float]] = {name: [] for name in backends}
    for _ in range(samples):
        for name, run in backends.items():
            times[name].append(_sample(run, calls, case, repeats[name]))
    ref = statistics.median(times["ref"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        speed = case.bytes / median / 1e9
        yield Line(case.model, case.rows, case.shape, name, median * 1e6, speed, ref / median)


def _repeats(run: Callable[..., None], calls: list, case: Case) -> int:
    _sample(run, calls, case, 1)  # first touch
    return 1 if case.reset else max(1, round(SAMPLE_SECONDS / _sample(run, calls, case, 2)))


def _sample(run: Callable[..., None], calls: list, case: Case, repeats: int) -> float:
    """Seconds per call."""
    if case.reset:
        case.reset(calls[0][0])
    start = time.perf_counter()
    for i in range(repeats):
        args, kwargs = calls[i % len(calls)]
        run(*args, **kwargs)
    return (time.perf_counter() - start) / repeats


def print_table(op: str, lines: Iterable[Line]) -> list[Line]:
    """Print lines as they come."""
    print(f"{op:16} {'rows':>4}  {'shape':34} {'backend':8} {'median us':>10} {'GB/s':>7} {'x ref':>6}")
    shown = []
    for line in lines:
        shown.append(line)
        print(
            f"{line.model:16} {line.rows:4}  {line.shape:34} {line.backend:8} "
            f"{line.us:10.1f} {line.gb_per_s:7.2f} {line.times_ref:6.2f}",
            flush=True,
        )
    return shown


def main(op: str, cases: Callable[[Model, int], Iterable[Case]], rows: Iterable[int] = ROWS) -> None:
    """Command line of one op's benchmark; `cases(model, rows)` gives its shapes."""
    parser = argparse.ArgumentParser(description=f"Time the op {op} on each of its backends.")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the numbers to this file")
    parser.add_argument("--quick", action="store_true", help="one model, two row counts, few samples")
    parser.add_argument("--model", choices=[model.name for model in MODELS], help="this model only")
    args = parser.parse_args()
    torch.manual_seed(0)

    models = [m for m in MODELS if args.model in (None, m.name)]
    counts = sorted(rows)
    if args.quick:
        models, counts = models[:1], sorted({counts[0], counts[len(counts) // 2]})
    samples = 5 if args.quick else 15
    todo = (case for model in models for count in counts for case in cases(model, count))
    lines = print_table(op, (line for case in todo for line in measure(op, case, samples)))
    if args.json:
        threads = {"torch": torch.get_num_threads()}
        if native.available:
            threads["native"] = native.num_threads()
        report = {"op": op, **conditions(), "threads": threads, "lines": [asdict(x) for x in lines]}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
