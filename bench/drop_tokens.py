"""What conditional drop-token saves in training: rows, seconds and memory of a step, with and without it."""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.table import Table

from bench.memory import status
from pspec_rt.cli import guarded
from pspec_rt.cli.measuring import check_folder
from pspec_rt.cli.options import add_target_options, load_asked_target, numbers, show_progress
from pspec_rt.cli.terminal import stderr, stdout
from pspec_rt.errors import ConfigError
from pspec_rt.measure.meta import conditions, of_target
from pspec_rt.measure.run import set_threads
from pspec_rt.models.target import DTYPE_NAMES, Target
from pspec_rt.tokenizer import Tokenizer
from pspec_rt.train.data import Text, load_texts
from pspec_rt.train.features import features_of
from pspec_rt.train.loop import Material, TrainConfig, Training
from pspec_rt.train.recipe import FEATURE_FAMILIES, Recipe, prepare

MB = 1e6
LAYERS_OF_LM = 6  # what `pspec-rt train` takes of the target


@dataclass
class Arm:
    """One training: `keep` 1 drops nothing. Samples of a step: milliseconds, bytes at its peak over those before it."""

    family: str
    k: int
    keep: float
    training: Training
    ms: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    rows_per_anchor: list[float] = field(default_factory=list)

    def step(self) -> None:
        device = self.training.trainee.device
        before = _memory_before(device)
        start = time.perf_counter()
        row = self.training.step()
        self.ms.append(1e3 * (time.perf_counter() - start))
        self.peak.append(_peak(device) - before)
        self.rows_per_anchor.append(row["rows_per_anchor"])


def _memory_before(device: torch.device) -> int:
    """Forget the peak so far, give unused memory back, and return what is in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from now on
    return status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else status("VmHWM")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.drop_tokens", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.jsonl", help="as for `pspec-rt train`")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="of the target's features (default: DATA.features)")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="texts (default 200)")
    parser.add_argument("--families", default="parallelspec-eagle,parallelspec-medusa,p-eagle,pard", metavar="F,F")
    parser.add_argument("--k", default="4,8", metavar="K,K", help="default 4,8")
    parser.add_argument("--keep", type=float, default=0.7, metavar="R", help="compared with 1 (default 0.7)")
    parser.add_argument("--least", type=float, default=0.2, metavar="R")
    parser.add_argument("--batch", type=int, default=1024, metavar="N", help="anchor tokens of a step (default 1024)")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="measured, after two (default 8)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write lines and samples here")
    add_target_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    check_folder(args.json)
    if not 0 < args.keep < 1 or args.steps < 1:
        raise ConfigError(f"--keep {args.keep}, --steps {args.steps}: expected a share between 0 and 1, steps >= 1")
    setups = list(product(args.families.split(","), numbers("--k", args.k, int)))
    recipes = [
        Recipe(family, k, layers=1 if family in FEATURE_FAMILIES else LAYERS_OF_LM, init="random")
        for family, k in setups
    ]
    threads = set_threads(args.threads)
    target = load_asked_target(args, show_progress())
    texts = load_texts(args.data, target.config.vocab_size, 1024, lambda: Tokenizer(target.path)).texts[: args.limit]
    cache = args.cache or args.data.with_name(args.data.name + ".features")
    lines = []
    for recipe in recipes:
        lines += measure(recipe, args, target, texts, cache)
    report = {"meta": conditions() | of_target(target, threads) | {"batch": args.batch}, "lines": lines}
    show(lines)
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        stderr().print(f"written: {args.json}", style="dim")
    return 0


def measure(
    recipe: Recipe, args: argparse.Namespace, target: Target, texts: Sequence[Text], cache: Path
) -> list[dict[str, Any]]:
    """Steps without and with dropping, taking turns on the same texts; a line each."""
    with tempfile.TemporaryDirectory() as folder:
        arms = []
        for keep in (1.0, args.keep):
            trainee, _ = prepare(recipe, target, texts, texts, DTYPE_NAMES["bf16"])
            features = features_of(target, trainee.taps, texts, cache, lambda tokens: None)
            config = TrainConfig(
                steps=args.steps + 2, batch=args.batch, micro=args.batch, keep=keep, least=args.least, prompts=False
            )
            material = Material(texts, features, range(len(texts)), ())
            arms.append(Arm(recipe.family, recipe.k, keep, Training(trainee, material, config, Path(folder))))
        for turn in range(args.steps + 2):
            for arm in arms if turn % 2 == 0 else arms[::-1]:
                arm.step()
    lines = [_line(arm) for arm in arms]
    return [line | {f"{key}_ratio": line[key] / lines[0][key] for key in COLUMNS} for line in lines]


COLUMNS = {"rows_per_anchor": "rows per anchor", "ms": "ms per step", "peak_bytes": "MB at the peak of a step"}


def _line(arm: Arm) -> dict[str, Any]:
    """Medians, without the first two steps, which allocate."""
    samples = {"rows_per_anchor": arm.rows_per_anchor[2:], "ms": arm.ms[2:], "peak_bytes": arm.peak[2:]}
    about = {"family": arm.family, "k": arm.k, "keep": arm.keep, "samples": samples}
    return about | {name: median(values) for name, values in samples.items()}


def show(lines: Sequence[dict[str, Any]]) -> None:
    """Print a line per training, and how it compares with the one that drops nothing."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("family", "K", "keep", *(word for title in COLUMNS.values() for word in (title, "ratio"))):
        table.add_column(column, justify="left" if column == "family" else "right")
    for line in lines:
        shown = (f"{line['rows_per_anchor']:.2f}", f"{line['ms']:.0f}", f"{line['peak_bytes'] / MB:.0f}")
        ratios = (f"{line[f'{key}_ratio']:.2f}" for key in COLUMNS)
        cells = (cell for pair in zip(shown, ratios, strict=True) for cell in pair)
        table.add_row(line["family"], str(line["k"]), f"{line['keep']:g}", *cells)
    out = stdout()
    out.width = max(out.width, 120)
    out.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
