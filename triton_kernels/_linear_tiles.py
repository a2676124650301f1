"""How `linear` runs a weight [N, K]: plans measured on a GPU (linear_tiles.json), a rule of thumb for other shapes.

A plan has two halves. Its `Order` fixes the bits of every output and is one for all row counts. Its `Tile` of each row
bucket changes speed only. A tuner measures `candidates` and writes the fastest with `Table.put` and `Table.save`; the
next process reads them. Changing an order changes results in the last bits, as another GPU or library version would.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from ._common import SHARED_LIMIT, interpreting

BUCKETS = (16, 32, 64)  # rows of x a program takes at once
FILE = Path(__file__).with_name("linear_tiles.json")
CUDA_FILE = Path(__file__).with_name("linear_cuda.json")
SMS = {80: 108, 90: 132, 100: 148}  # of A100, H100 / H200 and B200
MAX_ACCUMULATORS = {16: 4096, 32: 4096, 64: 2048}  # fp32 sums of a warp by `step`; more spill
MAX_BLOCK_SUMS = 1024  # of a warp, where a block adds up a chunk


@dataclass(frozen=True)
class Order:
    """The order of a weight's sums, see `_product`.

    Attributes:
        unit: who adds up a chunk: "warp" (batched dot, mma.sync) or "block" (all warps; wgmma, tcgen05 where there is).
        chunks: a power of two.
        step: columns of a chunk per step of the loop, a power of two.
    """

    unit: str
    chunks: int
    step: int


@dataclass(frozen=True)
class Tile:
    """What a program takes: `rows` of the weight and `split` of the chunks; its warps and pipeline stages."""

    rows: int
    split: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Plan:
    """How a weight is run. `library_from`: rows from which a library GEMM was faster, for exact=False; None: never."""

    order: Order
    tiles: dict[int, Tile]
    library_from: int | None = None

    def tile(self, R: int) -> tuple[int, Tile]:
        """(bucket, tile) for R rows."""
        bucket = bucket_of(R)
        return bucket, self.tiles[bucket]


def whole(plan: Plan, bucket: int, arch: int | None, N: int) -> Tile:
    """The tile of a bucket for programs that take all chunks of a weight's N rows themselves, as
    `_product.whole_product` does.

    Instead of one run of the loop after the other, each with sums of its own, tiles with more warps; of 64 rows, or of
    fewer where those would leave multiprocessors idle.
    """
    order, tile = plan.order, plan.tiles[bucket]
    if order.unit == "block" or tile.split == order.chunks or arch is None:
        return tile
    warps = min(order.chunks, 8)
    most = next((rows for rows in (64, 32) if -(-N // rows) >= 0.9 * SMS[arch]), 16)
    narrower = (Tile(rows, order.chunks, warps, tile.stages - less) for rows in (64, 32, 16) for less in range(4))
    fitting = (t for t in narrower if t.rows <= most and t.stages >= 2)
    return next((t for t in fitting if legal(order, t, bucket, arch)), tile)


def bucket_of(R: int) -> int:
    """The bucket for R rows; more than the largest are several tiles of it."""
    return next((bucket for bucket in BUCKETS if R <= bucket), BUCKETS[-1])


def shared_bytes(order: Order, tile: Tile, bucket: int) -> int:
    """At most so many bytes of shared memory a bf16 program needs: the pipeline, or the exchange of its sums."""
    buffers = tile.stages - 1 if order.unit == "warp" else tile.stages
    pipeline = buffers * (tile.rows + bucket) * tile.split * order.step * 2
    return max(pipeline, tile.split * tile.rows * bucket * 4) + 1024


def legal(order: Order, tile: Tile, bucket: int, arch: int) -> bool:
    """Whether a tile has the order's MMA instruction in every bucket, fits in shared memory and does not spill."""
    if order.chunks % tile.split or shared_bytes(order, tile, bucket) > SHARED_LIMIT[arch]:
        return False
    if order.unit == "block":
        fits = tile.warps in (4, 8) and tile.rows % (16 * tile.warps) == 0
        return fits and tile.split == 1 and tile.rows * bucket <= MAX_BLOCK_SUMS * tile.warps
    per_warp = tile.rows * bucket * tile.split // tile.warps
    return 2 <= tile.warps <= tile.split and tile.rows >= 16 and per_warp <= MAX_ACCUMULATORS[order.step]


def orders(K: int) -> Iterator[Order]:
    """Orders worth measuring for weights of K columns."""
    for unit, steps in (("warp", (32, 64)), ("block", (64, 128))):
        for chunks in (4, 8, 16) if unit == "warp" else (1, 2, 4, 8):
            yield from (Order(unit, chunks, step) for step in steps if chunks * step <= K)


def candidates(order: Order, bucket: int, arch: int) -> Iterator[Tile]:
    """Every legal tile of an order."""
    splits = (1,) if order.unit == "block" else (4, 8)
    for rows in (16, 32, 64, 128):
        for split in splits:
            for warps in (4, 8) if order.unit == "block" else (split,):
                tiles = (Tile(rows, split, warps, stages) for stages in range(2, 9))
                yield from (tile for tile in tiles if legal(order, tile, bucket, arch))


class Table:
    """The measured plans of a file, by architecture and shape."""

    def __init__(self, file: Path = FILE) -> None:
        self.file = file
        self.entries: dict[str, dict] = json.loads(file.read_text()) if file.exists() else {}

    def get(self, N: int, K: int, arch: int) -> Plan | None:
        """The plan of a weight, None if it was not measured."""
        entry = self.entries.get(f"sm_{arch}", {}).get(f"{N}x{K}")
        if entry is None:
            return None
        tiles = {int(bucket): Tile(**tile) for bucket, tile in entry["tiles"].items()}
        return Plan(Order(**entry["order"]), tiles, entry.get("library_from"))

    def put(self, N: int, K: int, arch: int, plan: Plan) -> None:
        """Set the plan of a weight; ValueError if a bucket is missing or a tile is not legal."""
        if set(plan.tiles) != set(BUCKETS):
            raise ValueError(f"{N}x{K}: a plan needs tiles for the buckets {BUCKETS}, got {sorted(plan.tiles)}")
        for bucket, tile in plan.tiles.items():
            if not legal(plan.order, tile, bucket, arch):
                raise ValueError(f"{N}x{K}: {tile} is not legal for {plan.order}, bucket {bucket} on sm_{arch}")
        self.entries.setdefault(f"sm_{arch}", {})[f"{N}x{K}"] = asdict(plan)

    def save(self) -> None:
        """Write the file; running processes keep the plans they have (`plan_of.cache_clear()` makes one read them)."""
        self.file.write_text(json.dumps(self.entries, indent=1, sort_keys=True) + "\n")


@cache
def cuda_is_faster(N: int, K: int, arch: int) -> bool:
    """Whether csrc/cuda/linear.cu was measured to be faster than the plan of a weight [N, K], over all row counts.

    CUDA_FILE lists such weights, {"sm_90": ["4096x4096", ..]}; what is not in it was not measured, and runs here.
    """
    return f"{N}x{K}" in json.loads(CUDA_FILE.read_text()).get(f"sm_{arch}", [])


@cache
def plan_of(N: int, K: int, wide: bool, arch: int | None) -> Plan:
    """The plan of a weight [N, K]: the table's, else a rule of thumb.

    Args:
        wide: x or w is fp32, and so is the dot.
        arch: 80, 90, ..; None: the interpreter.
    """
    known = None if wide or arch is None else Table().get(N, K, arch)
    if known is not None:
        return known
    if arch is None:  # the fewer steps and programs the better
        order = Order("warp", 4, 64 if K > 64 else 16)
        return Plan(order, dict.fromkeys(BUCKETS, Tile(128, 4, 4, 2)))
    if wide:  # for tests: no tensor cores, and the operands of the dot in registers
        return Plan(Order("warp", 4, 16), dict.fromkeys(BUCKETS, Tile(16, 4, 4, 2)))
    order = _usual_order(N, K)
    return Plan(order, {bucket: _usual_tile(order, N, bucket, arch) for bucket in BUCKETS})


def arch_of(device: torch.device) -> int | None:
    """Architecture of a device as `plan_of` and `Table` name it: the newest known one that is not newer."""
    if interpreting():
        return None
    return _arch_of(device)


@cache
def _arch_of(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return max((arch for arch in SMS if arch <= 10 * major + minor), default=min(SMS))


def _usual_order(N: int, K: int) -> Order:
    """Many warps share a narrow weight's columns, as it has few tiles of rows. 32 columns of bf16 are half a cache
    line, and leave registers for 64 x 64 tiles; 16 where these divide the columns and 32 do not, as masks take some."""
    chunks = 8 if N < 16384 and K >= 2048 else 4
    wide = K >= 256 and (K % (32 * chunks) == 0 or K % (16 * chunks) > 0)
    return Order("warp", chunks, 32 if wide else 16)


def _usual_tile(order: Order, N: int, bucket: int, arch: int) -> Tile:
    rows, split = 64 if N >= 16384 else 32 if N >= 4096 else 16, order.chunks
    if bucket == 64 and order.chunks == 8:  # the rows of x are read once per tile: larger tiles, and more of them
        rows, split = 2 * rows, 4
    resident = 1 if -(-N // rows) * (order.chunks // split) <= SMS[arch] else 2  # blocks of an SM
    fitting = (Tile(rows, split, split, stages) for stages in (6, 5, 4, 3, 2))
    budget = SHARED_LIMIT[arch] // resident
    return next(tile for tile in fitting if shared_bytes(order, tile, bucket) <= budget)
