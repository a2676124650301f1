"""The command line `pspec-rt`: a file per subcommand; this one dispatches and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..errors import PspecError

COMMANDS = ("generate", "chat", "bench", "distill", "train", "convert", "inspect", "export", "env")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands; each module adds its own through `add_parser`."""
    parser = argparse.ArgumentParser(
        prog="pspec-rt", description="Faster text generation by parallel drafting, with the same output."
    )
    parser.add_argument("--version", action="version", version=f"pspec-rt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f".{name}", __name__)
        command = module.add_parser(commands)
        command.add_argument("-v", "--verbose", action="store_true", help="log what is loaded and which kernels run")
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (a check failed), 2 (bad input) or 130 (Ctrl-C).

    Raises SystemExit(2) where argparse itself refuses the arguments.
    """
    args = build_parser().parse_args(argv)
    _set_up_logging(args.verbose, getattr(args, "quiet", False))
    return guarded(args.run, args)


def guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Call `run`; a user's error becomes one line on stderr and exit code 2, Ctrl-C becomes 130."""
    try:
        return run(args)
    except PspecError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _set_up_logging(verbose: bool, quiet: bool) -> None:
    """Warnings go to stderr; more or less of them as asked. Only the command line configures logging."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.getLogger("pspec_rt").setLevel(level)
