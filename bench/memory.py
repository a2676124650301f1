"""What a generator takes of memory: growth since the imports, against the bytes of weights and caches."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pspec_rt import Generator
from pspec_rt.hub import demo_model
from pspec_rt.measure.meta import conditions
from pspec_rt.tokenizer import Tokenizer

MB = 1e6


def status(field: str) -> int:
    """A field of this process's status, in bytes (Linux): VmRSS now, VmHWM at its highest."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--target", help="checkpoint folder (default: the demo model)")
    parser.add_argument("--dtype", default="auto", help="as Generator's (default auto)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the numbers here")
    args = parser.parse_args()
    target = args.target or str(demo_model())
    Tokenizer(Path(target))  # transformers imports most of its code when the first tokenizer is loaded
    imported = status("VmRSS")
    generator = Generator(target, "ngram", dtype=args.dtype, max_batch=1)
    loaded, loading_peak = status("VmRSS"), status("VmHWM")
    generator.generate("Once upon a time", max_new_tokens=64, ignore_eos=True)
    engine = generator.team.members[0].engine
    assert engine is not None
    weights, caches = generator.target.nbytes, engine.state.cache.nbytes
    figures = {
        "after import": imported,
        "growth when loaded": loaded - imported,
        "growth at the peak of loading": loading_peak - imported,
        "growth after 64 tokens": status("VmRSS") - imported,
        "weights": weights,
        "KV cache": caches,
    }
    growth = (figures["growth after 64 tokens"] - caches) / weights
    table = Table("", "MB", title=f"{Path(target).name}, {args.dtype}")
    for name, size in figures.items():
        table.add_row(name, f"{size / MB:.1f}")
    table.add_row("(growth - KV cache) / weights", f"{growth:.3f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"meta": conditions(), "bytes": figures, "ratio": growth}, indent=1) + "\n")


if __name__ == "__main__":
    main()
