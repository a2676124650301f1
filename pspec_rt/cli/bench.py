"""`pspec-rt bench`: the end-to-end measurement as a command: a table, a JSON file and a plot."""

from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from ..errors import ConfigError
from .options import add_model_options, show_progress
from .terminal import percentages, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..measure import Report


TABLE_WIDTH = 160  # a table of all peers; a narrow terminal wraps it rather than losing numbers


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "bench",
        help="measure speed and acceptance on a question file",
        description="Answer questions with plain decoding, with drafting and with peers, in turn, in one process, on "
        "one checkpoint. Exit code 1 if a drafted answer is not token for token the plain one.",
    )
    parser.add_argument("--questions", required=True, metavar="FILE", help="JSONL in Spec-Bench's format")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="per turn (default 128)")
    parser.add_argument("--limit", type=int, metavar="M", help="at most M questions, taken evenly from the tasks")
    parser.add_argument("--task", action="append", default=[], metavar="T", help="only this task; repeatable")
    parser.add_argument(
        "--peers",
        nargs="*",
        default=[],
        metavar="PEER,PEER",
        help="compare with: transformers, transformers-assisted (its own prompt lookup), llama.cpp (demo model only, "
        "4 bit; pip install llama-cpp-python)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default 0 (greedy)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of every contender (default: all cores)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write rows and summary here, and OUT's .svg plot")
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from ..measure import BenchConfig, measure
    from ..measure.peers import split_names

    if args.json is not None and not args.json.parent.is_dir():
        raise ConfigError(f"--json {args.json}: there is no folder {args.json.parent}")
    config = BenchConfig(
        target=args.target,
        questions=args.questions,
        drafter=args.drafter,
        max_new_tokens=args.max_new_tokens,
        limit=args.limit,
        tasks=tuple(args.task),
        peers=split_names(args.peers),
        dtype=args.dtype,
        drafter_dtype=args.drafter_dtype,
        loop=args.loop,
        device=args.device,
        temperature=args.temperature,
        seed=args.seed,
        k=args.k,
        tree=args.tree,
        threads=args.threads,
        ignore_generation_config=args.ignore_generation_config,
    )
    with _progress() as on_question:
        report = measure(config, on_question)
    show(report)
    if args.json is not None:
        save(report, args.json)
    if report.summary.get("identical_tokens", True):
        return 0
    stderr().print("speculative output differs from plain output: see first_difference in the rows", style="red")
    return 1


def show(report: Report) -> None:
    """Print the table and the acceptance profile."""
    summary, meta = report.summary, report.meta
    columns = _columns(summary)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("task", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for task, figures in report.tasks.items():
        table.add_row(task, *(form(figures) for form in columns.values()))
    table.add_section()
    table.add_row("overall", *(form(summary) for form in columns.values()))
    out = stdout()
    out.width = max(out.width, TABLE_WIDTH)
    out.print(
        f"{meta['target']}: {meta['dtype']}, {meta['threads']} threads, drafter {meta['drafter']}, tree {meta['tree']}"
    )
    out.print(table)
    for name in (key.removeprefix("identical_to_") for key in summary if key.startswith("identical_to_")):
        out.print(f"{name}: ids equal to plain decoding in {summary[f'identical_to_{name}']} of {summary['questions']}")
    if "plain_bandwidth_fraction" in summary:
        out.print(
            f"plain decoding reads weights at {summary['plain_bandwidth_fraction']:.0%} of the read bandwidth "
            f"({summary['read_bandwidth_gbs']:.1f} GB/s)"
        )
    if rates := summary.get("acceptance_per_position"):
        out.print(f"drafts accepted at position 1, 2, ...: {percentages(rates)}")
    for skipped in report.skipped:
        out.print(f"left out: question {skipped['question_id']}: {skipped['reason']}")


def save(report: Report, path: Path) -> None:
    """Write the JSON file and, where matplotlib is installed, the plot next to it."""
    from ..measure.plot import plot_available, plot_speedups

    path.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    stderr().print(f"written: {path}", style="dim")
    if not plot_available():
        stderr().print("no plot: matplotlib is not installed (pip install 'pspec-rt[bench]')", style="dim")
    elif plot_speedups(report, plot := path.with_suffix(".svg")):
        stderr().print(f"written: {plot}", style="dim")


def _columns(summary: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Column title -> how it is read from a group's figures; only what was measured."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {"n": lambda f: str(f["questions"])}

    def number(title: str, key: str, form: str) -> None:
        if key in summary:
            columns[title] = lambda f: format(f[key], form) + ("x" if "over" in key else "")

    names = [key.removesuffix("_new_tokens") for key in summary if key.endswith("_new_tokens")]
    for name in names:
        number(f"{_short(name)}\ntok/s", f"{name}_tokens_per_s", ".1f")
    number("tok/\nround", "mean_acceptance_length", ".2f")
    number("speed-\nup", "speedup_over_plain", ".2f")
    number("plain/\ntrans.", "plain_over_transformers", ".2f")
    for peer in names:
        number(f"specu./\n{_short(peer)}", f"speculative_over_{peer}", ".2f")
    return columns


def _short(name: str) -> str:
    """A contender's name for a narrow table: its last part, cut."""
    last = name.rpartition("_")[2]
    return last if len(last) < 7 else f"{last[:5]}."


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar over the questions, on a terminal only."""
    columns = ("measuring", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), disable=not show_progress()) as bar:
        task = bar.add_task("questions", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
