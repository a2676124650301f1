"""Plain decoding at several batch sizes: tokens per second, and how many times that of one sequence."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from pspec_rt import Generator
from pspec_rt.hub import demo_model
from pspec_rt.measure.meta import conditions
from pspec_rt.measure.run import set_threads

PROMPT = "Write a story about the {}th day of a long journey, with as many details as you can think of."


class Batch:
    """B sequences of different prompts, decoded together; each one runs to `new_tokens`."""

    def __init__(self, target: str, dtype: str, B: int, new_tokens: int) -> None:
        self.generator = Generator(target, None, dtype=dtype, max_batch=B)
        self.prompts = [[{"role": "user", "content": PROMPT.format(i + 1)}] for i in range(B)]
        self.options = {"max_new_tokens": new_tokens, "ignore_eos": True}

    def tokens_per_second(self) -> tuple[float, float]:
        """(of decoding alone, with the prompts' prefill)."""
        start = time.perf_counter()
        outputs = self.generator.generate(self.prompts, **self.options)
        seconds = time.perf_counter() - start
        tokens = sum(output.stats.new_tokens for output in outputs)
        return tokens / sum(output.stats.decode_s for output in outputs), tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.batch", description=__doc__)
    parser.add_argument("--target", help="checkpoint folder (default: the demo model)")
    parser.add_argument("--dtype", default="auto", help="as Generator's (default: the checkpoint's)")
    parser.add_argument("--batches", default="1,8,64", help="batch sizes, taking turns (default 1,8,64)")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens per sequence (default 64)")
    parser.add_argument("--repeat", type=int, default=5, help="runs per size (default 5)")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the numbers here")
    args = parser.parse_args()
    threads = set_threads(args.threads)
    sizes = [int(size) for size in args.batches.split(",")]
    batches = {B: Batch(args.target or str(demo_model()), args.dtype, B, args.new_tokens) for B in sizes}
    rates: dict[int, list[tuple[float, float]]] = {B: [] for B in sizes}
    for repeat in range(args.repeat + 1):
        for B, batch in batches.items():
            rate = batch.tokens_per_second()
            if repeat:  # the first one warms up
                rates[B].append(rate)
    lines = [{"batch": B, "decode_tokens_per_s": median(a for a, _ in rate), "tokens_per_s": median(b for _, b in rate)}
             for B, rate in rates.items()]  # fmt: skip
    table = Table(
        "batch", "decode tok/s", "x first", "with prefill", title=f"{args.new_tokens} tokens, {threads} threads"
    )
    for line in lines:
        ratio = line["decode_tokens_per_s"] / lines[0]["decode_tokens_per_s"]
        line["ratio"] = ratio
        table.add_row(
            str(line["batch"]), f"{line['decode_tokens_per_s']:.1f}", f"{ratio:.2f}", f"{line['tokens_per_s']:.1f}"
        )
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"meta": conditions() | {"threads": threads}, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
