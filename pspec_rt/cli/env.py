"""`pspec-rt env`: versions, build, devices, threads and the kernels that would run; what a bug report needs."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from .terminal import stdout


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("env", help="show versions, build and kernels")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    facts = collect()
    if args.json:
        stdout().out(json.dumps(facts, indent=2), highlight=False)
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        shown = " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
        stdout().out(f"{name:<{width}}  {shown}", highlight=False)
    return 0


def collect() -> dict[str, Any]:
    """Everything `pspec-rt env` shows."""
    import torch

    from .. import build_info, env
    from ..measure.meta import cpu_name, versions
    from ..ops import choose_backends

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "build": build_info(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": env.threads(),
        "gpus": gpus or "none",
        "backends": choose_backends("cuda" if gpus else "cpu"),
        "forced_backends": env.forced_backends() or "none",
        "cache": str(env.cache_dir()),
    }
