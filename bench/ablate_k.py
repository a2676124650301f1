"""How many tokens to draft: one parallel drafter cut to every K, as chain and tree, beside ones trained for fewer."""

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
from pspec_rt.cli.options import add_target_options, load_asked_target, numbers, show_progress
from pspec_rt.cli.terminal import stdout
from pspec_rt.measure.ablation import Ablation, AblationConfig, ablate, panels_of
from pspec_rt.measure.plot import plot_curves
from pspec_rt.measure.run import set_threads


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.ablate_k", description=__doc__)
    add_question_options(parser, "lines and rows")
    parser.add_argument("--drafter", required=True, metavar="DIR", help="the drafter that is cut to every K")
    parser.add_argument(
        "--retrained", action="append", default=[], metavar="DIR", help="a drafter trained for a smaller K; repeatable"
    )
    parser.add_argument("--k", default="2,3,4,5,6,7,8", metavar="K,K", help="default 2,3,4,5,6,7,8")
    add_arm_options(parser)
    add_target_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    check_folder(args.json)
    config = AblationConfig(asked_of(args), args.drafter, tuple(args.retrained), numbers("--k", args.k, int))
    set_threads(args.threads)
    with progress() as on_question:
        report = ablate(config, load_asked_target(args, show_progress()), on_question)
    show(report)
    if args.json is not None:
        meta = report.meta
        title = f"{meta['target']}, {meta['dtype']}, {meta['threads']} threads, {meta['cpu']}, {meta['nodes']} nodes"
        save(report, args.json, lambda plot: plot_curves(panels_of(report), title, plot))
    return closing(report)


def show(report: Ablation) -> None:
    """Print the table, and what cutting costs."""
    meta = report.meta
    table = Table(box=box.SIMPLE_HEAD, title=f"{meta['target']}, {meta['dtype']}, {meta['threads']} threads")
    table.add_column("drafter")
    for column in ("trained K", "K", "drafted as", *ARM_COLUMNS):
        table.add_column(column, justify="right", no_wrap=True)
    for line in report.lines:
        table.add_row(
            line["drafter"] or "none",
            str(line.get("trained_k") or "-"),
            str(line["k"] or "-"),
            line["shape"],
            *arm_figures(line),
        )
    out = stdout()
    out.width = max(out.width, 120)
    out.print(table)
    for check in report.checks:
        out.print(
            f"K = {check['k']}, {check['shape']}: cut {check['acceptance_length_cut']:.2f} tokens per round, "
            f"{check['drafter']} {check['acceptance_length_retrained']:.2f}; "
            f"cut runs at {check['cut_over_retrained']:.2f}x its speed"
        )


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
