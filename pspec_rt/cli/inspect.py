"""`pspec-rt inspect`: what a checkpoint is, target or drafter, without loading its weights."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .terminal import stdout


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "inspect",
        help="say what a checkpoint is",
        description="Read a checkpoint's headers, target or drafter, and say what it is and what it fits.",
    )
    parser.add_argument("path", metavar="PATH", help="a checkpoint folder or hub id")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    from ..drafters.inspect import inspect_checkpoint

    facts = {name: value for name, value in inspect_checkpoint(args.path).items() if value not in (None, [])}
    if args.json:
        stdout().out(json.dumps(facts, indent=2, ensure_ascii=False), highlight=False)
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        shown = f"{value:,}" if name in ("parameters", "bytes") else value
        stdout().out(f"{name:<{width}}  {shown}", highlight=False)
    return 0
