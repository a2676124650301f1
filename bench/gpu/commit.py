"""Section h: the integer kernels, which count microseconds: those of drafting (draft_rows, grow_tree, prune_tree), and
those around verification (build_tree, accept with its publication to the ring, compact_kv)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from bench.ops._bench import MODELS, Model
from pspec_rt import ops
from pspec_rt.ring import Ring

from .kernels import bind
from .run import Job
from .shapes import GPU_MODELS, TINY
from .timing import time_calls

BAR_US = 15.0  # accept, publication and compaction of one slot together
PREFIX, S, P, N = 1024, 1200, 8, 16
DRAFTING = {"draft_rows": (1, 8), "grow_tree": (1, 8), "prune_tree": (60,)}  # op: slots, or nodes, of its benchmark


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report."""
    models = (TINY,) if job.small else GPU_MODELS
    report["lines"] = [line for model in models for B in (1, 8) for line in lines(model, B, job.device)]
    report["lines"] += drafting_lines(job.device)
    found = [
        (line["model"], line["us"])
        for line in report["lines"]
        if line["op"] == "accept + compact_kv" and line["B"] == 1
    ]
    report["summary"] = [f"accept, publish, compact: {us:.1f} us ({model}; bar {BAR_US:.0f} us)" for model, us in found]
    report["summary"] += [
        f"{line['op']}, {line['rows']} x {line['shape']}: {line['us']:.1f} us"
        for line in report["lines"]
        if line["op"] in DRAFTING
    ]


def lines(model: Model, B: int, device: str) -> list[dict[str, Any]]:
    """Microseconds of a tree of N nodes of which the target follows every second one, P tokens in all."""
    with torch.device(device):
        slots = Round(model, B, device)
    calls: dict[str, Callable[[], None]] = {
        "build_tree": slots.build,
        "accept": slots.accept,
        "compact_kv": slots.compact,
        "accept + compact_kv": slots.commit,
    }
    return [{"op": op, "model": model.name, "B": B, "us": time_calls([call], device).us} for op, call in calls.items()]


def drafting_lines(device: str) -> Iterator[dict[str, Any]]:
    """Microseconds of what no model matters to: the rows of a draft, a level of a tree, its nodes."""
    for op, counts in DRAFTING.items():
        with torch.device(device):
            found = importlib.import_module(f"bench.ops.bench_{op}").cases
            cases = [case for rows in counts for case in found(MODELS[0], rows)]
        for case in cases:
            us = time_calls([bind(getattr(ops, op), *case.make())], device).us
            yield {"op": op, "model": case.model, "rows": case.rows, "shape": case.shape, "us": us}


class Round:
    """Buffers of B slots whose history never grows: every call does the same."""

    def __init__(self, model: Model, B: int, device: str) -> None:
        self.ring = Ring(B, P, 1 << 12, torch.device(device))
        self.ring.start_burst(1 << 30)
        self.kv = torch.zeros(model.L, 2, B, model.G, S, model.E, dtype=torch.bfloat16)
        self.ids = _rows(B, range(N))
        self.parent, self.target = (
            _rows(B, [-1, 0, 0, *(n - 2 for n in range(3, N))]),
            _rows(B, [2, 9, *range(4, N + 2)]),
        )
        self.stop, self.tokens = _rows(B, [-1] * 16), torch.zeros(B, S, dtype=torch.int32)
        self.limit, self.length, self.finished, self.bonus, self.count = (
            _rows(B, [x])[:, 0].contiguous() for x in (1 << 30, PREFIX, 0, 0, 0)
        )
        self.path, self.emitted = _rows(B, [-1] * P), _rows(B, [-1] * P)
        self.candidates, self.scores = torch.zeros(B, 8, 8, dtype=torch.int32), torch.zeros(B, 8, 8)
        self.outputs = [_rows(B, [0] * N) for _ in range(3)] + [_rows(B, [0] * N).long(), _rows(B, [0] * N)]
        self.prefix = self.length.clone()

    def build(self) -> None:
        ops.build_tree(self.candidates, self.scores, self.bonus, self.length, *self.outputs, prefix_B=self.prefix)

    def accept(self) -> None:
        self.length.fill_(PREFIX)  # a launch more, counted
        state = (self.stop, self.limit, self.length, self.finished, self.bonus, self.tokens)
        ops.accept(self.ids, self.parent, self.target, *state, self.path, self.emitted, self.count, ring=self.ring)

    def commit(self) -> None:
        self.accept()
        self.compact()

    def compact(self) -> None:
        ops.compact_kv(self.kv, self.path, self.count, self.length)


def _rows(B: int, values: Sequence[int] | range) -> torch.Tensor:
    return torch.tensor([list(values)] * B, dtype=torch.int32)
