"""Drafters of different families side by side, parallel beside token by token, each as chain and as tree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich import box
from rich.table import Table

from pspec_rt.cli import guarded
from pspec_rt.cli.measuring import (
    ARM_COLUMNS,
    add_arm_options,
    add_question_options,
    arm_figures,
    asked_of,
    check_folder,
    closing,
    progress,
    save,
)
from pspec_rt.cli.options import add_target_options, load_asked_target, show_progress
from pspec_rt.cli.terminal import stdout
from pspec_rt.measure.families import Families, FamiliesConfig, bars_of, compare_families
from pspec_rt.measure.plot import plot_bars
from pspec_rt.measure.run import set_threads


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.families", description=__doc__)
    add_question_options(parser, "lines and rows")
    parser.add_argument("--drafter", action="append", required=True, metavar="DIR", help="a checkpoint; repeatable")
    parser.add_argument("--k", type=int, default=4, metavar="K", help="depths of chains and trees (default 4)")
    add_arm_options(parser)
    add_target_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    check_folder(args.json)
    config = FamiliesConfig(asked_of(args), tuple(args.drafter), args.k)
    set_threads(args.threads)
    with progress() as on_question:
        report = compare_families(config, load_asked_target(args, show_progress()), on_question)
    show(report)
    if args.json is not None:
        save(report, args.json, lambda plot: plot_bars(bars_of(report), title(report), plot))
    return closing(report)


def title(report: Families) -> str:
    meta = report.meta
    return f"{meta['target']}, {meta['dtype']}, {meta['threads']} threads, {meta['cpu']}, {meta['nodes']} nodes"


def show(report: Families) -> None:
    """Print the table, and every parallel family beside the one it descends from."""
    table = Table(box=box.SIMPLE_HEAD, title=title(report))
    for column in ("drafter", "kind", "drafted as"):
        table.add_column(column, no_wrap=True)
    for column in ("MB", "trained\nfor, s", "anchor\ntokens", *ARM_COLUMNS):
        table.add_column(column, justify="right", no_wrap=True)
    plain, *arms = report.lines
    table.add_row("none", "", plain["shape"], "", "", "", *arm_figures(plain))
    for line in arms:
        seconds, anchors = line["trained_seconds"], line["trained_anchors"]
        table.add_row(
            line["drafter"],
            line["kind"],
            line["shape"],
            f"{line['megabytes']:.1f}",
            "-" if seconds is None else f"{seconds:.0f}",
            "-" if anchors is None else f"{anchors:,}",
            *arm_figures(line),
        )
    out = stdout()
    out.width = max(out.width, 160)
    out.print(table)
    for pair in report.pairs:
        accepted, faster = pair["acceptance_length"], pair["speedup_over_plain"]
        out.print(
            f"{pair['drafter']} over {pair['over']}, {pair['shape']}: {accepted[0]:.2f} against {accepted[1]:.2f} "
            f"tokens per round, {faster[0]:.2f}x against {faster[1]:.2f}x plain"
        )


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
