"""All op benchmarks in one run, against plain torch and the read bandwidth of the same run.

    python -m bench.kernels [--device cuda] [--ops linear,embed] [--rows 1,8] [--threads N] --json OUT

The shapes of an op are in bench/ops/bench_OP.py; docs/benchmarks.md says how each number is defined.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from bench.ops._bench import add_options, choices, run_benchmarks
from pspec_rt import ops  # noqa: F401  (registers the ops)
from pspec_rt.ops._dispatch import REGISTRY

ROWS = (1, 4, 8, 12, 24, 64)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", choices=("cpu", "ref", "triton"), help="an op without it runs on ref (default: the device's own)"
    )
    parser.add_argument("--ops", metavar="OP,...", help="only these (default: all)")
    add_options(parser)
    args = parser.parse_args(argv)
    names = choices("op", args.ops, REGISTRY) if args.ops else sorted(REGISTRY)
    cases = {op: importlib.import_module(f"bench.ops.bench_{op}").cases for op in names}
    run_benchmarks(cases, args, ROWS, args.backend or ("triton" if args.device == "cuda" else "cpu"))


if __name__ == "__main__":
    main()
