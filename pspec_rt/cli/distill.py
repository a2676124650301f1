"""`pspec-rt distill`: the target answers prompts; the answers are a drafter's training data."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import ConfigError
from .options import add_target_options, load_asked_target, numbers, show_progress
from .terminal import stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..train.distill import Advance, DistillReport


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "distill",
        help="write a drafter's training data with the target",
        description="Let the target answer the prompts of a JSONL file (`prompt`, `messages` or raw `text`; id, kind, "
        "source and licence are carried through). Rows are appended as answers end; the same command run again goes on "
        "after the rows that exist. A row depends neither on the batch nor on the order.",
    )
    parser.add_argument("prompts", type=Path, metavar="PROMPTS.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="beside it: FILE.jsonl.meta.json")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)")
    parser.add_argument(
        "--temperature", default="0", metavar="T,T", help="one answer per value and prompt, e.g. 0,0.8 (default 0)"
    )
    parser.add_argument(
        "--samples", type=int, default=1, metavar="N", help="answers per temperature above 0 (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--max-batch", type=int, default=64, metavar="B", help="answers written together (default 64)")
    parser.add_argument("--limit", type=int, metavar="M", help="at most M prompts")
    parser.add_argument("--kinds", default="", metavar="KIND,KIND", help="only prompts of these kinds")
    parser.add_argument(
        "--shuffle-seed", type=int, metavar="S", help="random order: a part of the work then covers all kinds"
    )
    parser.add_argument(
        "--max-prompt-tokens", type=int, default=768, metavar="N", help="leave longer prompts out (default 768)"
    )
    parser.add_argument(
        "--dedupe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="answer prompts that differ in whitespace only once",
    )
    add_target_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from ..train.distill import DistillConfig, distill

    if not args.out.parent.is_dir():
        raise ConfigError(f"--out {args.out}: there is no folder {args.out.parent}")
    config = DistillConfig(
        prompts=args.prompts,
        out=args.out,
        max_new_tokens=args.max_new_tokens,
        temperatures=numbers("--temperature", args.temperature, float),
        samples=args.samples,
        seed=args.seed,
        max_batch=args.max_batch,
        limit=args.limit,
        kinds=tuple(filter(None, args.kinds.split(","))),
        shuffle_seed=args.shuffle_seed,
        max_prompt_tokens=args.max_prompt_tokens,
        dedupe=args.dedupe,
    )
    target = load_asked_target(args, show_progress())
    with _progress() as start:
        report = distill(config, target, start)
    show(report)
    return 130 if report.interrupted else 0


def show(report: DistillReport) -> None:
    """Print rows and tokens per kind, what was left out, and the speed."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("kind", no_wrap=True)
    for title in ("rows", "tokens", "tokens/row"):
        table.add_column(title, justify="right")

    def add(name: str, rows: int, tokens: int) -> None:
        table.add_row(name, f"{rows:,}", f"{tokens:,}", f"{tokens / max(rows, 1):.0f}")

    for kind, rows in report.rows.most_common():
        add(kind or "(none)", rows, report.tokens[kind])
    table.add_section()
    add("all", report.rows.total(), report.tokens.total())
    out = stdout()
    out.print(table)
    written = report.rows.total() - report.rows_before
    speed = report.new_tokens / report.seconds if report.seconds else 0.0
    out.print(
        f"{written} rows written, {report.rows_before} found; {report.new_tokens} tokens in {report.seconds:.1f} s "
        f"({speed:.0f} tokens/s)"
    )
    for reason, count in report.skipped.items():
        if count:
            out.print(f"left out: {count} {reason}")
    if report.interrupted:
        out.print("interrupted: run the same command again to go on")


@contextmanager
def _progress() -> Iterator[Callable[[DistillReport], Advance]]:
    """A bar over the rows, on a terminal only."""
    speed = TextColumn("{task.fields[speed]:.0f} tok/s")
    columns = ("answers", BarColumn(), MofNCompleteColumn(), speed, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), disable=not show_progress()) as bar:

        def start(report: DistillReport) -> Advance:
            task = bar.add_task("rows", total=report.rows_wanted, completed=report.rows_before, speed=0.0)

            def advance(rows: int) -> None:
                elapsed = bar.tasks[task].elapsed
                bar.update(task, advance=rows, speed=report.new_tokens / elapsed if elapsed else 0.0)

            return advance

        yield start
