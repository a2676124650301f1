"""`python -m pspec_rt.cli.demo`: one question, answered with drafting and without; both answers are compared."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import guarded
from .options import show_progress, target_path
from .terminal import StreamPrinter, describe_drafting, stats_lines, stderr, stdout

if TYPE_CHECKING:
    from ..generator import Generator
    from ..result import GenerationOutput

QUESTION = "Write a Python function that returns the prime numbers up to n, and explain step by step how it works."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 1 if the two answers are not token for token the same."""
    parser = argparse.ArgumentParser(prog="python -m pspec_rt.cli.demo", description=__doc__)
    parser.add_argument("--check", action="store_true", help="a short run for scripts: fewer tokens")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    return guarded(run, parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    from ..generator import Generator
    from ..models.target import load_target

    max_new_tokens = 48 if args.check else 256
    say = stderr()
    target = load_target(target_path(None, show_progress()), progress=show_progress())
    drafting, plain = Generator(target, "auto", progress=show_progress()), Generator(target, None)
    stdout().out(f"{QUESTION}\n", highlight=False)
    results = []
    for generator in (drafting, plain):
        generator.generate("Warm up.", max_new_tokens=8, temperature=0)
        say.print(describe_drafting(generator), style="dim")
        results.append(_answer(generator, max_new_tokens))
    return _compare(*results)


def _answer(generator: Generator, max_new_tokens: int) -> tuple[GenerationOutput, float]:
    """Stream one answer; returns it with the seconds it took."""
    printer = StreamPrinter(generator)
    messages = [{"role": "user", "content": QUESTION}]
    start = time.perf_counter()
    for chunk in generator.generate(messages, max_new_tokens=max_new_tokens, temperature=0, stream=True):
        printer.write(chunk)
        output = chunk.output
    seconds = time.perf_counter() - start
    assert output is not None, "a stream ends with an output"
    if output.finish_reason == "interrupted":
        raise KeyboardInterrupt
    stdout().out("\n")
    for line in stats_lines(output.stats):
        stderr().print(line, style="dim")
    return output, seconds


def _compare(drafted: tuple[GenerationOutput, float], plain: tuple[GenerationOutput, float]) -> int:
    same = drafted[0].token_ids == plain[0].token_ids
    count = len(plain[0].token_ids)
    verdict = f"all {count} tokens are identical" if same else "ERROR: the two answers differ"
    stdout().print(
        f"with and without drafting: {verdict}; drafting took {drafted[1]:.2f} s, plain decoding {plain[1]:.2f} s: "
        f"{plain[1] / drafted[1]:.2f}x as fast"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
