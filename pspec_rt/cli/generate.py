"""`pspec-rt generate`: continue one prompt, streamed or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from .options import add_model_options, add_sampling_options, make_generator, sampling_options
from .terminal import StreamPrinter, describe_drafting, stats_lines, stderr, stdout

if TYPE_CHECKING:
    from ..generator import Generator
    from ..result import GenerationOutput, Stats


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue a prompt. The text streams to standard output, in a terminal with accepted drafts in "
        "green; what was drafted and how fast it went is said on standard error.",
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the prompt; - reads standard input")
    parser.add_argument("--chat", action="store_true", help="send the prompt through the chat template")
    parser.add_argument("--n", type=int, default=1, metavar="N", help="samples (default 1)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object and nothing else; with --n above 1 it holds a list `samples`",
    )
    parser.add_argument("--quiet", action="store_true", help="the text alone: nothing on standard error")
    add_model_options(parser)
    add_sampling_options(parser, max_new_tokens=256)
    return parser


def run(args: argparse.Namespace) -> int:
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    generator = make_generator(args, max_batch=max(1, min(args.n, 8)))
    if args.chat:
        prompt = [{"role": "user", "content": prompt}]
    quiet = args.quiet or args.json
    if not quiet:
        stderr().print(describe_drafting(generator), style="dim")
    options = {**sampling_options(args), "n": args.n}
    if args.json:
        outputs = _as_list(generator.generate(prompt, **options))
        sys.stdout.write(json.dumps(_to_json(generator, outputs), ensure_ascii=False) + "\n")
    elif args.n == 1:
        outputs = [_stream(generator, prompt, options)]
    else:
        outputs = _as_list(generator.generate(prompt, **options))
        for output in outputs:
            stdout().out(f"--- sample {output.sample_index + 1} of {args.n} ---\n{output.text}", highlight=False)
    if not quiet:
        for line in stats_lines(_total(outputs)):
            stderr().print(line, style="dim")
    return 130 if any(output.finish_reason == "interrupted" for output in outputs) else 0


def _stream(generator: Generator, prompt: Any, options: dict[str, Any]) -> GenerationOutput:
    chunks = generator.generate(prompt, stream=True, **options)
    printer = StreamPrinter(generator)
    for chunk in chunks:
        printer.write(chunk)
        if chunk.output is not None:
            stdout().out("")
            return chunk.output
    raise AssertionError("a stream ends with an output")


def _as_list(outputs: GenerationOutput | list[GenerationOutput]) -> list[GenerationOutput]:
    return outputs if isinstance(outputs, list) else [outputs]


def _total(outputs: list[GenerationOutput]) -> Stats:
    from ..result import Stats

    total = Stats()
    for output in outputs:
        total.add(output.stats)
    return total


def _to_json(generator: Generator, outputs: list[GenerationOutput]) -> dict[str, Any]:
    names = [member.name if member.drafter else None for member in generator.team.members]
    trees = [member.tree.name if member.tree else None for member in generator.team.members]
    shared: dict[str, Any] = {"drafter": names[0], "tree": trees[0]}
    if len(names) > 1:  # `stats` says who served
        shared = {"drafter": names, "tree": trees}
    samples = [
        {
            "text": output.text,
            "token_ids": output.token_ids,
            "finish_reason": output.finish_reason,
            "seed": output.seed,
            "stats": output.stats.to_dict(),
        }
        for output in outputs
    ]
    return samples[0] | shared if len(samples) == 1 else {"samples": samples} | shared
