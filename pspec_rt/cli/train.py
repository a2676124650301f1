"""`pspec-rt train`: a drafter learns from the answers of its target."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_target_options, load_asked_target, numbers, show_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..train.run import Job


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "train",
        help="train a drafter on the target's answers",
        description="Train a drafter on answers written by its target (`pspec-rt distill`). OUT holds the drafter, the "
        "log and the state to go on from: the same command resumes.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    add_target_options(parser)
    _add_drafter_options(parser)
    _add_training_options(parser)
    _add_data_options(parser)
    return parser


def _add_drafter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("drafter")
    group.add_argument(
        "--family",
        default="parallelspec-eagle",
        metavar="F",
        help="parallelspec-eagle (default), parallelspec-medusa, p-eagle, pard; the baselines eagle, medusa, lm",
    )
    group.add_argument("--k", type=int, default=4, metavar="K", help="drafted tokens per round (default 4)")
    group.add_argument(
        "--draft-vocab", type=int, default=8192, metavar="N", help="tokens it can draft: the N most frequent; 0: all"
    )
    group.add_argument("--layers", type=int, metavar="N", help="layers (default 1; 6 of the target's for pard and lm)")
    group.add_argument("--mlp", type=int, metavar="N", help="inner width of the layers' MLP (default: the target's)")
    group.add_argument("--taps", metavar="I,J,..", help="hidden states it reads (default: low, middle, high, last)")
    group.add_argument(
        "--parts",
        metavar="P,Q,..",
        help="optional tensors: bias, anchor_map, blocks, head, embedding (default bias,anchor_map)",
    )
    group.add_argument(
        "--init",
        choices=("fit", "random"),
        default="fit",
        help="start by least squares (default), or from random weights",
    )
    group.add_argument("--init-layers", metavar="I,..", help="start from these layers of the target, e.g. -1")
    group.add_argument(
        "--adapt", metavar="DIR", help="small LM to adapt (pard, lm); default: the target's first layers"
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--steps", type=int, metavar="N", help="optimiser steps")
    group.add_argument("--minutes", type=float, metavar="M", help="or minutes of training, evaluations not counted")
    group.add_argument("--batch", type=int, default=2048, metavar="N", help="anchor tokens per step (default 2048)")
    group.add_argument("--micro", type=int, default=1024, metavar="N", help="of them in one pass (default 1024)")
    group.add_argument("--lr", type=float, metavar="R", help="peak learning rate (default 1e-3; 2e-4 for pard and lm)")
    group.add_argument(
        "--muon",
        type=float,
        default=2.0,
        metavar="F",
        help="Muon updates the layers' matrices at F * lr (default 2); 0: AdamW",
    )
    group.add_argument("--warm-up", type=int, default=60, metavar="N", help="steps until the peak (default 60)")
    group.add_argument(
        "--keep", type=float, default=0.7, metavar="R", help="depth d is trained for max(R**d, --least) of the groups"
    )
    group.add_argument("--least", type=float, default=0.2, metavar="R")
    group.add_argument(
        "--hard", type=float, default=0.0, metavar="W", help="weight of cross-entropy; the rest is KL to the target"
    )
    group.add_argument("--depth-decay", type=float, default=0.8, metavar="G", help="loss weight of depth d is G**d")
    group.add_argument("--eval-every", type=int, metavar="N", help="steps between evaluations, which also save")
    group.add_argument("--train-dtype", choices=("bf16", "fp32"), default="bf16", help="of the rows; weights are fp32")
    group.add_argument("--seed", type=int, default=0, metavar="S")


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--train-on", choices=("prompt+answer", "answer"), default="prompt+answer", help="whose tokens are predicted"
    )
    group.add_argument(
        "--max-length", type=int, default=1024, metavar="N", help="longer texts are left out (default 1024)"
    )
    group.add_argument("--limit", type=int, metavar="N", help="use only the first N texts")
    group.add_argument(
        "--cache", default="auto", metavar="auto|off|DIR",
        help="where the target's features go: DATA.features (auto), nowhere (the target runs again each epoch), or DIR",
    )  # fmt: skip
    group.add_argument("--held-out", type=int, default=48, metavar="N", help="texts to measure acceptance on")


def run(args: argparse.Namespace) -> int:
    import torch

    from ..env import local_rank, threads
    from ..train.run import train

    job = _job(args)
    rank = local_rank()
    if rank is not None and args.device in ("auto", "cuda") and torch.cuda.is_available():
        args.device = f"cuda:{rank}"
        torch.cuda.set_device(rank)
    if rank is None:
        torch.set_num_threads(threads())
    target = load_asked_target(args, show_progress())
    with _display(job) as (advance, report):
        acceptance = train(job, target, advance, report)
    if acceptance.tau:
        taus = ", ".join(f"{name} {tau:.2f}" for name, tau in acceptance.tau.items())
        sys.stdout.write(f"{args.out}: tokens per round on held-out texts: {taus}\n")
    return 0


def _job(args: argparse.Namespace) -> Job:
    from ..train.loop import TrainConfig
    from ..train.recipe import FEATURE_FAMILIES, Recipe
    from ..train.run import Job

    feature = args.family in FEATURE_FAMILIES  # the others are whole language models
    taps = None if args.taps is None else numbers("--taps", args.taps, int)
    first = () if args.init_layers is None else numbers("--init-layers", args.init_layers, int)
    recipe = Recipe(
        args.family, args.k, args.draft_vocab, taps, args.layers or (1 if feature else 6), args.mlp,
        None if args.parts is None else tuple(filter(None, args.parts.split(","))), args.init,
        first, args.adapt, args.seed,
    )  # fmt: skip
    config = TrainConfig(
        steps=args.steps, minutes=args.minutes, batch=args.batch, micro=args.micro,
        lr=args.lr or (1e-3 if feature else 2e-4), muon=args.muon, warm_up=args.warm_up,
        keep=args.keep, least=args.least,
        hard=args.hard, depth_decay=args.depth_decay, eval_every=args.eval_every,
        prompts=args.train_on != "answer", seed=args.seed,
    )  # fmt: skip
    cache = {"off": None, "auto": args.data.with_name(args.data.name + ".features")}.get(args.cache, Path(args.cache))
    return Job(
        args.data, args.out, recipe, config, args.train_dtype, args.max_length, args.limit, args.held_out, cache,
        shlex.join(["pspec-rt", *map(_without_folder, sys.argv[1:])]),
    )  # fmt: skip


def _without_folder(word: str) -> str:
    """An absolute path's name: where things lie on this machine is of no use on a drafter's card."""
    return Path(word).name if word.startswith(("/", "~")) else word


@contextmanager
def _display(job: Job) -> Iterator[tuple[Callable[[int, int], None], Callable[[dict[str, Any]], None]]]:
    """Bars on stderr, if it is a terminal: for reading features and for training; evaluations as lines."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, disable=not show_progress()) as bars:
        reading = bars.add_task("target's features", total=None, note="", visible=False)
        training = bars.add_task("training", total=1.0, note="", visible=False)

        def advance(done: int, total: int) -> None:
            bars.update(reading, visible=done < total, completed=done, total=total, note=f"{done} of {total} tokens")

        def report(row: dict[str, Any]) -> None:
            if "eval" in row:
                taus = "  ".join(f"{name} {tau:.3f}" for name, tau in row["eval"]["tau"].items())
                depths = " ".join(f"{share:.3f}" for share in row["eval"]["accuracy"])
                console.print(f"step {row['step']}: {taus}  accuracy by depth {depths}")
            elif "loss" in row:
                share = job.config.share(row["step"], row["seconds"])
                note = f"step {row['step']}  loss {row['loss'][0]:.3f}  {row['anchors_per_s']} anchors/s"
                bars.update(training, visible=True, completed=share, note=note)

        yield advance, report
