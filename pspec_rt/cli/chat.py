"""`pspec-rt chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .options import add_model_options, add_sampling_options, make_generator, sampling_options
from .terminal import StreamPrinter, describe_drafting, stats_lines, stderr, stdout

if TYPE_CHECKING:
    from ..generator import Generator
    from ..result import GenerationOutput

HINT = "/reset starts over, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("chat", help="talk to a model", description=f"Talk to a model. {HINT}.")
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--quiet", action="store_true", help="no statistics after each answer")
    add_model_options(parser)
    add_sampling_options(parser, max_new_tokens=512)
    return parser


def run(args: argparse.Namespace) -> int:
    generator = make_generator(args)
    if sys.stdin.isatty():
        _enable_line_editing()
    say = stderr()
    if not args.quiet:
        say.print(describe_drafting(generator), style="dim")
        say.print(HINT, style="dim")
    _Conversation(generator, args.system, sampling_options(args), args.quiet).run()
    return 0


class _Conversation:
    """The message history and the loop over the user's lines."""

    def __init__(self, generator: Generator, system: str | None, options: dict[str, Any], quiet: bool) -> None:
        self._generator, self._options, self._quiet = generator, options, quiet
        self._opening = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self._opening)

    def run(self) -> None:
        while (line := _read_line()) is not None:
            if line == "/exit":
                return
            if line == "/reset":
                self.messages = list(self._opening)
                stderr().print("(new conversation)", style="dim")
            elif line.startswith("/"):
                stderr().print(f"unknown command {line.split()[0]}: {HINT}", style="dim")
            elif line:
                self._turn(line)

    def _turn(self, line: str) -> None:
        self.messages.append({"role": "user", "content": line})
        try:
            text, output = self._answer()
        except RequestError as error:  # most often a conversation that has grown too long
            self.messages.pop()
            stderr().print(f"error: {error} (/reset starts a new conversation)", style="red")
            return
        self.messages.append({"role": "assistant", "content": text})
        if output is not None and not self._quiet:
            stderr().print(stats_lines(output.stats)[0], style="dim")

    def _answer(self) -> tuple[str, GenerationOutput | None]:
        """Stream one answer; on Ctrl-C what was said so far is the answer."""
        chunks = self._generator.generate(self.messages, stream=True, **self._options)
        printer = StreamPrinter(self._generator)
        text, output = "", None
        try:
            for chunk in chunks:
                printer.write(chunk)
                text, output = text + chunk.text, chunk.output
        except KeyboardInterrupt:  # it hit between two rounds: the stream itself did not see it
            chunks.close()  # type: ignore[attr-defined]
        stdout().out("")
        return text, output


def _read_line() -> str | None:
    """The next line without surrounding blanks; None at the end of input. Ctrl-C empties the line."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "").strip()
        except KeyboardInterrupt:
            stderr().print(f"\n{HINT}", style="dim")
        except EOFError:
            return None


def _enable_line_editing() -> None:
    """Arrow keys and history in `input`, where Python was built with readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return
