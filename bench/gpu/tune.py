"""Section d: the fastest order and tiles of `linear` for each weight of the models, written where the runtime reads."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import unittest.mock
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from pspec_rt.triton_kernels import _linear_tiles as tiles
from pspec_rt.triton_kernels import linear as kernel
from pspec_rt.triton_kernels._linear_tiles import BUCKETS, Order, Plan, Table, Tile
from torch import Tensor

from .run import Job
from .shapes import GPU_MODELS, weights_of
from .timing import copies_for, time_calls

COMPILERS = 14  # processes that compile
STAGES = (3, 5)  # of those `candidates` offers
ROW_TILES = (16, 32, 64)
LEAST_FILL = 0.5  # blocks per multiprocessor: tiles that leave more of the GPU idle are not tried
ORDERS_KEPT = 2  # of the smallest bucket's, tried in the others
LIBRARY_ROWS = (16, 64, 256)  # where a library GEMM may take over for exact=False

Shape = tuple[int, int]  # N, K
Trial = tuple[int, int, int, Order, Tile]  # N, K, bucket, order, tile
Line = dict[str, Any]


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report, and write the table to the runtime's place and to the section's folder."""
    arch = tiles.arch_of(torch.device(job.device)) or 90  # a CPU stands for an H200
    shapes = [(96, 64)] if job.small else shapes_of_models()
    table, first, done = Table(), {}, 0
    with compilers(job) as pool:
        for i, shape in enumerate(shapes):
            for near in shapes[i : i + 2]:  # the next one's are compiled while this one's are measured
                if near not in first:
                    first[near] = submit(pool, trials_of(near, BUCKETS[:1], orders_for(near, job), arch))
            lines = measured(first[shape], shape, job)
            orders = best_orders(lines)[:ORDERS_KEPT]
            lines += measured(submit(pool, trials_of(shape, BUCKETS[1:], orders, arch)), shape, job)
            report["lines"] += lines
            plan = best_plan(lines)
            if plan is None:
                break
            table.put(*shape, arch, with_library(plan, shape, job))
            write(table, job)
            done += 1
        pool.shutdown(wait=False, cancel_futures=True)
    tiles.plan_of.cache_clear()
    report["complete"] = done == len(shapes)
    report["summary"] = [f"{len(report['lines'])} trials, plans for {done} of {len(shapes)}"]
    report["summary"] += best_lines(report["lines"])


def shapes_of_models() -> list[Shape]:
    """Weights of all models, each once, the largest model's first."""
    return list(dict.fromkeys(shape for model in GPU_MODELS for shape in weights_of(model)))


def write(table: Table, job: Job) -> None:
    """To the section's folder, and to the place where the runtime reads."""
    copy = Table(job.out / "linear_tiles.json")
    copy.entries = table.entries
    copy.save()
    if not job.small:
        table.save()


def compilers(job: Job) -> concurrent.futures.Executor:
    """Processes that fill Triton's cache on disk, or a thread that does nothing."""
    if job.device != "cuda":
        return concurrent.futures.ThreadPoolExecutor(1)
    return concurrent.futures.ProcessPoolExecutor(COMPILERS, mp_context=multiprocessing.get_context("spawn"))


def submit(pool: concurrent.futures.Executor, trials: Iterable[Trial]) -> list[Any]:
    """[(trial, future of its compilation)]"""
    return [(trial, pool.submit(compile_one, trial)) for trial in trials]


def measured(compiling: Iterable[Any], shape: Shape, job: Job) -> list[Line]:
    """Lines of the trials of a weight that are compiled before the time is up."""
    N, K = shape
    pool_OK = weights(shape, job)
    lines = []
    for trial, future in compiling:
        try:
            future.result(timeout=max(job.time_left() - 5, 0.01))
        except concurrent.futures.TimeoutError:
            break
        lines.append(measure(trial, pool_OK, job.device))
    return lines


def weights(shape: Shape, job: Job) -> Tensor:
    """Copies of a weight that no cache holds together."""
    copies = copies_for(2 * math.prod(shape)) if job.device == "cuda" else 2
    return torch.randn(copies, *shape, dtype=torch.bfloat16, device=job.device)


def trials_of(shape: Shape, buckets: Iterable[int], orders: Sequence[Order], arch: int) -> Iterator[Trial]:
    """What is measured."""
    for bucket in buckets:
        for order in orders:
            for tile in tiles.candidates(order, bucket, arch):
                blocks = -(-shape[0] // tile.rows) * (order.chunks // tile.split)
                fills = blocks >= LEAST_FILL * tiles.SMS[arch] or tile.rows == ROW_TILES[0]
                if fills and tile.rows in ROW_TILES and tile.stages in STAGES:
                    yield *shape, bucket, order, tile


def orders_for(shape: Shape, job: Job) -> list[Order]:
    """Orders that may be best: a wide weight has enough blocks without many chunks."""
    if job.small:
        return [Order("warp", 4, 16)]
    most = {"warp": 4, "block": 2} if shape[0] >= 16384 else {"warp": 8, "block": 8}
    return [order for order in tiles.orders(shape[1]) if order.chunks <= most[order.unit]]


def compile_one(trial: Trial) -> None:
    """Launch a trial once, in a process that compiles; one that fails does so again when it is measured."""
    if not torch.cuda.is_available():
        return
    x_RI, out_RO = operands(trial, "cuda")
    try:
        launch(trial, x_RI, torch.zeros(trial[0], trial[1], dtype=torch.bfloat16, device="cuda"), out_RO)
    except Exception:
        return


def launch(trial: Trial, x_RI: Tensor, w_OI: Tensor, out_RO: Tensor) -> None:
    """`linear` with the order and the tile of a trial instead of the plan it would take."""
    order, tile = trial[3:]
    plan = Plan(order, dict.fromkeys(BUCKETS, tile))
    with unittest.mock.patch.object(tiles, "plan_of", lambda *_: plan):
        kernel.linear(x_RI, w_OI, out_RO)


def operands(trial: Trial, device: str) -> tuple[Tensor, Tensor]:
    """x and out of a full bucket."""
    N, K, bucket, _, _ = trial
    x_RI = torch.randn(bucket, K, dtype=torch.bfloat16, device=device)
    return x_RI, torch.empty(bucket, N, dtype=torch.bfloat16, device=device)


def measure(trial: Trial, pool_OK: Tensor, device: str) -> Line:
    """One line: the plan and its microseconds, or what went wrong."""
    N, K, bucket, order, tile = trial
    line = {"N": N, "K": K, "bucket": bucket, "order": asdict(order), "tile": asdict(tile)}
    x_RI, out_RO = operands(trial, device)
    try:
        us = time_calls([partial(launch, trial, x_RI, w_OI, out_RO) for w_OI in pool_OK], device, 5).us
    except Exception as error:
        return line | {"error": f"{type(error).__name__}: {error}"[:300]}
    return line | {"us": us, "gb_per_s": 2 * N * K / us / 1e3}


def fastest_tiles(lines: Iterable[Line]) -> dict[Order, dict[int, tuple[float, Tile]]]:
    """{order: {bucket: (microseconds, tile)}}, the best of each."""
    best: dict[Order, dict[int, tuple[float, Tile]]] = {}
    for line in (line for line in lines if "us" in line):
        found = best.setdefault(Order(**line["order"]), {})
        if line["bucket"] not in found or line["us"] < found[line["bucket"]][0]:
            found[line["bucket"]] = (line["us"], Tile(**line["tile"]))
    return best


def best_orders(lines: Iterable[Line]) -> list[Order]:
    """Orders by the time of the smallest bucket, the fastest first."""
    best = {order: found for order, found in fastest_tiles(lines).items() if BUCKETS[0] in found}
    return sorted(best, key=lambda order: best[order][BUCKETS[0]][0])


def best_plan(lines: Iterable[Line]) -> Plan | None:
    """The order whose best tiles have the smallest product of times over all buckets; None if none has all."""
    whole = {order: found for order, found in fastest_tiles(lines).items() if set(found) == set(BUCKETS)}
    if not whole:
        return None
    order = min(whole, key=lambda order: math.prod(us for us, _ in whole[order].values()))
    return Plan(order, {bucket: tile for bucket, (_, tile) in whole[order].items()})


def with_library(plan: Plan, shape: Shape, job: Job) -> Plan:
    """The plan, and from which of LIBRARY_ROWS on cuBLAS was faster."""
    N, K = shape
    first = None
    pool_OK = weights(shape, job)
    for R in reversed(LIBRARY_ROWS if not job.small else LIBRARY_ROWS[:1]):
        if job.time_left() < 2:
            break
        x_RI = torch.randn(R, K, dtype=torch.bfloat16, device=job.device)
        out_RO = torch.empty(R, N, dtype=torch.bfloat16, device=job.device)
        bucket, tile = plan.tile(R)
        trial = (N, K, bucket, plan.order, tile)
        ours = time_calls([partial(launch, trial, x_RI, w_OI, out_RO) for w_OI in pool_OK], job.device, 5)
        theirs = time_calls([partial(torch.mm, x_RI, w_OI.T, out=out_RO) for w_OI in pool_OK], job.device, 5)
        if theirs.us >= ours.us:
            break
        first = R
    return Plan(plan.order, plan.tiles, first)


def best_lines(lines: Iterable[Line]) -> list[str]:
    """The best trial of each weight and bucket, in words."""
    fastest: dict[tuple[int, int, int], Line] = {}
    for line in (line for line in lines if "us" in line):
        key = (line["N"], line["K"], line["bucket"])
        if key not in fastest or line["us"] < fastest[key]["us"]:
            fastest[key] = line
    return [
        f"{N} x {K}, {bucket} rows: {line['us']:.1f} us, {line['gb_per_s']:.0f} GB/s"
        for (N, K, bucket), line in fastest.items()
    ]
