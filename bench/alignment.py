"""How closely a drafter follows its target, by depth, temperature and task, over the target's own answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from pspec_rt.cli import guarded
from pspec_rt.cli.measuring import add_question_options, check_folder, progress, save
from pspec_rt.cli.options import add_target_options, load_asked_target, numbers, show_progress
from pspec_rt.cli.terminal import stdout
from pspec_rt.measure.alignment import OVERALL, Alignment, AlignmentConfig, align, panels_of
from pspec_rt.measure.plot import plot_curves
from pspec_rt.measure.run import set_threads

# Figure -> column title and format.
COLUMNS = {
    "places": ("places", "d"),
    "kl": ("KL", ".3f"),
    "coverage": ("target mass\nin draft vocab", ".1%"),
    "covered_tokens": ("tokens\nin it", ".1%"),
    "perplexity": ("perplexity:\ndrafter", ".2f"),
    "target_perplexity": ("target", ".2f"),
    "top1_agreement": ("same\nbest", ".1%"),
    "frequency_distance": ("frequencies\napart", ".3f"),
    "frequency_distance_target": ("the target's\nown", ".3f"),
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.alignment", description=__doc__)
    add_question_options(parser, "lines")
    parser.add_argument("--drafter", required=True, metavar="DIR", help="the drafter's checkpoint")
    parser.add_argument("--temperatures", default="0,0.7,1", metavar="T,T", help="default 0,0.7,1")
    add_target_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    check_folder(args.json)
    temperatures = numbers("--temperatures", args.temperatures, float)
    config = AlignmentConfig(
        args.questions, args.drafter, temperatures, args.limit, args.max_new_tokens, seed=args.seed
    )
    set_threads(args.threads)
    with progress() as on_answer:
        report = align(config, load_asked_target(args, show_progress()), on_answer)
    show(report)
    if args.json is not None:
        save(report, args.json, lambda plot: plot_curves(panels_of(report), title(report), plot))
    return 0


def title(report: Alignment) -> str:
    meta = report.meta
    return f"{meta['drafter']} ({meta['kind']}, {meta['draft_vocab']} tokens) for {meta['target']}, {meta['dtype']}"


def show(report: Alignment) -> None:
    """Print all tasks by depth, and the first depth by task."""
    out = stdout()
    out.width = max(out.width, 120)
    together = [line for line in report.lines if line["task"] == OVERALL]
    out.print(table(f"{title(report)}: all tasks", "depth", together))
    by_task = [line for line in report.lines if line["task"] != OVERALL and line["depth"] == 1]
    out.print(table("depth 1 by task", "task", by_task))
    for skipped in report.skipped:
        out.print(f"broken off: question {skipped['question_id']}, T = {skipped['temperature']}: {skipped['reason']}")


def table(caption: str, by: str, lines: Sequence[dict[str, Any]]) -> Table:
    """A line per temperature and value of `by`; "-" where there is nothing to take a mean over."""
    made = Table(box=box.SIMPLE_HEAD, title=caption, padding=(0, 1, 0, 0))
    for column in ("T", by, *(heading for heading, _ in COLUMNS.values())):
        made.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    last = None
    for line in lines:
        if last is not None and line["temperature"] != last:
            made.add_section()
        last = line["temperature"]
        figures = ("-" if line[key] is None else format(line[key], form) for key, (_, form) in COLUMNS.items())
        made.add_row(f"{last:g}", str(line[by]), *figures)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
