"""How much a verify pass costs by its rows: target layers and head over 1..64 tree rows, on real weights."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from pspec_rt import ops
from pspec_rt.hub import demo_model
from pspec_rt.kv_cache import KVCache
from pspec_rt.measure.meta import conditions
from pspec_rt.measure.run import set_threads
from pspec_rt.models.memory import Arena
from pspec_rt.models.target import Target, load_target
from pspec_rt.models.workspace import Workspace
from pspec_rt.tree import TreeSpec

PREFIX = 256  # committed keys before the tree
ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 64)


class VerifyPass:
    """A chain of R nodes behind PREFIX committed tokens, greedy."""

    def __init__(self, target: Target, R: int) -> None:
        config, self.decoder = target.config, target.decoder
        shape = (config.num_layers, 1, config.num_kv_heads, PREFIX + R, config.head_dim)
        self.cache = KVCache.allocate(*shape, dtype=target.dtype, empty=Arena("cpu", block=0).empty)
        self.cache.kv_L2BGSE.normal_()
        self.work = Workspace(config, R, dtype=target.dtype)
        self.decoder.stack.rope.reserve(PREFIX + R)
        words_N = torch.ones(1, dtype=torch.int64)
        if R > 1:
            paths = [(0,) * depth for depth in range(1, R)]
            words_N = TreeSpec(R - 1, R, 1, tuple(paths), "chain").template().words_N  # past the depth of a draft
        self.words_BN = words_N[None]
        self.ids_BN = torch.randint(0, config.vocab_size, (1, R), dtype=torch.int32)
        self.positions_BN = torch.arange(PREFIX, PREFIX + R, dtype=torch.int32)[None]
        self.prefix_B = torch.tensor([PREFIX], dtype=torch.int32)
        self.out_R1 = torch.empty(R, 1, dtype=torch.int32)

    def seconds(self) -> float:
        """Time of one pass."""
        start = time.perf_counter()
        hidden_RM = self.decoder.forward(
            self.ids_BN, self.positions_BN, self.prefix_B, self.words_BN, self.cache, self.work
        )
        ops.head_top_k(hidden_RM, self.decoder.head_VM, self.out_R1, None)
        return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.verify_rows", description=__doc__)
    parser.add_argument("--target", help="checkpoint folder (default: the demo model)")
    parser.add_argument("--repeat", type=int, default=25, help="passes per number of rows, taking turns (default 25)")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the numbers here")
    args = parser.parse_args()
    threads = set_threads(args.threads)
    target = load_target(args.target or demo_model())
    passes = {R: VerifyPass(target, R) for R in ROWS}
    times: dict[int, list[float]] = {R: [] for R in ROWS}
    for repeat in range(args.repeat + 3):
        for R, verify in passes.items():
            seconds = verify.seconds()
            if repeat >= 3:  # the first ones warm up
                times[R].append(seconds)
    lines = [{"rows": R, "ms": 1e3 * median(t), "ratio": median(t) / median(times[1])} for R, t in times.items()]
    table = Table("rows", "ms (median)", "x 1 row", title=f"{target.path.name}, {target.dtype}, {threads} threads")
    for line in lines:
        table.add_row(str(line["rows"]), f"{line['ms']:.2f}", f"{line['ratio']:.2f}")
    Console().print(table)
    if args.json:
        meta = conditions() | {"target": target.path.name, "threads": threads, "prefix": PREFIX}
        args.json.write_text(json.dumps({"meta": meta, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
