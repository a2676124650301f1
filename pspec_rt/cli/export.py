"""`pspec-rt export`: a drafter in the layout of another engine."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "export",
        help="write a drafter for another engine",
        description="Write a P-EAGLE or PARD drafter as vLLM's parallel drafting reads it, and say what to tell vLLM.",
    )
    parser.add_argument("--format", choices=("vllm",), default="vllm", help="default vllm")
    parser.add_argument("drafter", metavar="DRAFTER", help="a checkpoint folder or hub id")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet, or is empty")
    return parser


def run(args: argparse.Namespace) -> int:
    from ..drafters.export import export_vllm

    exported = export_vllm(args.drafter, args.out)
    told = shlex.quote(json.dumps(exported.speculative_config))
    sys.stdout.write(f"{exported.folder}\n--speculative-config {told}\n")
    return 0
