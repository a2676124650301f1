"""What commands that measure have in common: options, a bar over the questions, a JSON file and a plot."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ..errors import ConfigError
from .options import show_progress
from .terminal import percentages, stderr, stdout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from ..measure.arms import ArmReport, Asked


def add_question_options(parser: argparse.ArgumentParser, writes: str) -> None:
    """What is asked, how much of it, on how many threads, and the file that takes the result (`writes`)."""
    parser.add_argument("--questions", required=True, metavar="FILE", help="JSONL in Spec-Bench's format")
    parser.add_argument("--limit", type=int, metavar="M", help="at most M questions, taken evenly from the tasks")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="per turn (default 128)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of every contender (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="OUT", help=f"write {writes} here, and OUT's .svg plot")


def add_arm_options(parser: argparse.ArgumentParser) -> None:
    """How several drafters are asked (`Asked`), beside `add_question_options`."""
    parser.add_argument("--nodes", type=int, default=16, help="of the best-first tree, root included (default 16)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default 0 (greedy)")
    parser.add_argument("--loop", default="auto", metavar="auto|eager|run_ahead|while")


def asked_of(args: argparse.Namespace) -> Asked:
    """What `add_question_options` and `add_arm_options` describe."""
    from ..measure.arms import Asked

    return Asked(
        args.questions, args.nodes, args.limit, args.max_new_tokens, args.temperature, args.seed, args.loop
    )  # fmt: skip


def check_folder(path: Path | None) -> None:
    """Raise ConfigError, before hours of measuring, if a result could not be written there."""
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"--json {path}: there is no folder {path.parent}")


def save(report: DataclassInstance, path: Path, draw: Callable[[Path], bool]) -> None:
    """Write the JSON file and, where matplotlib is installed, the plot next to it.

    Args:
        draw: draws the plot into a file; False if there is nothing to draw.
    """
    from ..measure.plot import plot_available

    path.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stderr().print(f"written: {path}", style="dim")
    if not plot_available():
        stderr().print("no plot: matplotlib is not installed (pip install 'pspec-rt[bench]')", style="dim")
    elif draw(plot := path.with_suffix(".svg")):
        stderr().print(f"written: {plot}", style="dim")


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """A bar over the questions, on a terminal only."""
    columns = ("measuring", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), disable=not show_progress()) as bar:
        task = bar.add_task("questions", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def arm_figures(line: dict[str, Any]) -> tuple[str, ...]:
    """Cells of an arm's line: tokens per round, acceptance per depth, tokens per second, speed-up and its median."""
    return (
        f"{line['mean_acceptance_length']:.2f}",
        percentages(line["acceptance_per_position"]) or "-",
        f"{line['tokens_per_s']:.1f}",
        f"{line['speedup_over_plain']:.2f}x",
        f"{line['speedup_over_plain_median']:.2f}x",
    )


ARM_COLUMNS = ("tok/round", "accepted at 1, 2, ...", "tok/s", "speed-up", "median")


def closing(report: ArmReport) -> int:
    """Name the questions that were left out and the arms whose text differs; the exit status."""
    for skipped in report.skipped:
        stdout().print(f"left out: question {skipped['question_id']}: {skipped['reason']}")
    if report.different:
        stderr().print(f"output differs from plain output: {', '.join(report.different)}", style="red")
    return 1 if report.different else 0
