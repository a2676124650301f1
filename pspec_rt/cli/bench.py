"""`pspec-rt bench`: the end-to-end measurement as a command: a table, a JSON file and a plot."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from .measuring import add_question_options, check_folder, progress, save
from .options import add_model_options, one_drafter
from .terminal import percentages, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..measure import Report


TABLE_WIDTH = 160  # a table of all peers; a narrow terminal wraps it rather than losing numbers


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "bench",
        help="measure speed and acceptance on a question file",
        description="Answer questions with plain decoding, with drafting and with peers, in turn, in one process, on "
        "one checkpoint. Exit code 1 if a drafted answer is not token for token the plain one.",
    )
    add_question_options(parser, "rows and summary")
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
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from ..measure import BenchConfig, measure
    from ..measure.peers import split_names
    from ..measure.plot import plot_speedups

    check_folder(args.json)
    config = BenchConfig(
        target=args.target,
        questions=args.questions,
        drafter=one_drafter(args),
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
    with progress() as on_question:
        report = measure(config, on_question)
    show(report)
    if args.json is not None:
        save(report, args.json, lambda plot: plot_speedups(report, plot))
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
