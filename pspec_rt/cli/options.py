"""Options that several subcommands share, and the objects they describe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..generator import Generator
    from ..models.target import Target

N = TypeVar("N", int, float)

# Modules of this package import torch inside functions: `pspec-rt --help` answers at once.


def add_target_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--target and how it is loaded; returns the group, for further options of the model."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--target",
        metavar="DIR|HUB_ID",
        help="checkpoint folder or hub id (default: the demo model, SmolLM2-135M-Instruct)",
    )
    group.add_argument(
        "--dtype", default="auto", metavar="auto|bf16|fp32|int8|int8a8", help="auto: the checkpoint's; int8: CPU only"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument(
        "--ignore-generation-config",
        action="store_true",
        help="run although generation_config.json asks for what is not supported (a repetition penalty, ...)",
    )
    return group


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--target, --drafter and how they are loaded and drafted with."""
    group = add_target_options(parser)
    group.add_argument(
        "--drafter",
        action="append",
        metavar="auto|none|ngram|DIR[+ngram]",
        help="who drafts: the shipped drafter that fits with n-gram lookup, or lookup alone (auto, default), nobody, "
        "n-gram lookup, or a checkpoint, +ngram: with lookup beside it; repeatable: of several, the fastest is found "
        "by measuring",
    )
    group.add_argument("--drafter-dtype", metavar="DTYPE", help="default: the checkpoint's own")
    group.add_argument("--k", type=int, metavar="K", help="drafted tokens per round")
    group.add_argument(
        "--tree",
        metavar="T",
        help="chain, best-first:NODES, medusa, or a .json file of candidate-rank paths",
    )
    group.add_argument(
        "--loop", default="auto", metavar="auto|eager|run_ahead|while", help="how rounds are driven (docs/one-round.md)"
    )


def add_sampling_options(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Length, temperature, filters, seed and stops."""
    group = parser.add_argument_group("sampling (default: the checkpoint's generation_config, else greedy)")
    group.add_argument("--max-new-tokens", type=int, default=max_new_tokens, metavar="N")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    group.add_argument("--top-k", type=int, metavar="N")
    group.add_argument("--top-p", type=float, metavar="P")
    group.add_argument("--min-p", type=float, metavar="P")
    group.add_argument("--seed", type=int, metavar="S", help="same seed, same text (default: random)")
    group.add_argument("--stop", action="append", default=[], metavar="STR", help="end the text here; repeatable")
    group.add_argument("--ignore-eos", action="store_true", help="do not stop at the model's end tokens")


def sampling_options(args: argparse.Namespace) -> dict[str, object]:
    """The keyword arguments of `Generator.generate` that `add_sampling_options` describes."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "ignore_eos")
    return {name: getattr(args, name) for name in names}


def target_path(target: str | None, progress: bool) -> str | Path:
    """The target as given, or the demo model, fetched and converted when it is not in the cache yet."""
    if target is not None:
        return target
    from ..hub import demo_model

    return demo_model(progress=progress)


def load_asked_target(args: argparse.Namespace, progress: bool) -> Target:
    """The target that `add_target_options` describes."""
    from ..models.target import load_target

    return load_target(
        target_path(args.target, progress),
        dtype=args.dtype,
        device=args.device,
        progress=progress,
        ignore_generation_config=args.ignore_generation_config,
    )


def make_generator(args: argparse.Namespace, max_batch: int = 1) -> Generator:
    """The Generator that `add_model_options` describes."""
    from ..generator import Generator

    progress = show_progress() and not getattr(args, "quiet", False) and not getattr(args, "json", False)
    target = load_asked_target(args, progress)
    shaped = {"drafter_dtype": args.drafter_dtype, "k": args.k, "tree": args.tree, "loop": args.loop}
    if args.drafter is not None and len(args.drafter) > 1:
        return Generator(target, drafters=args.drafter, **shaped, max_batch=max_batch)
    return Generator(target, one_drafter(args), **shaped, max_batch=max_batch)


def one_drafter(args: argparse.Namespace) -> str:
    """The drafter that was asked for; raises ConfigError if there are several."""
    from ..errors import ConfigError

    first, *others = args.drafter or ["auto"]
    if others:
        raise ConfigError(f"--drafter {first} --drafter {others[0]}: this command takes one drafter")
    return str(first)


def numbers(option: str, text: str, kind: type[N]) -> tuple[N, ...]:
    """The numbers, separated by commas, that an option was given; raises ConfigError for anything else."""
    from ..errors import ConfigError

    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        wanted = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{option} {text!r}: expected {wanted}, separated by commas") from error


def show_progress() -> bool:
    """Progress bars are for people: only when stderr is a terminal."""
    return sys.stderr.isatty()
