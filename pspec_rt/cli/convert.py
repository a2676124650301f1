"""`pspec-rt convert`: a GGUF file becomes a bf16 Hugging Face checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .options import show_progress


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "convert",
        help="make a checkpoint folder from a GGUF file",
        description="Dequantise a GGUF file (Llama, Qwen2, Qwen3) once into a bf16 checkpoint folder.",
    )
    parser.add_argument("gguf", type=Path, metavar="FILE.gguf")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet, or is empty")
    return parser


def run(args: argparse.Namespace) -> int:
    from ..convert import convert_gguf

    folder = convert_gguf(args.gguf, args.out, progress=show_progress())
    sys.stdout.write(f"{folder}\n")
    return 0
