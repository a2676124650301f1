"""Prompt files for distillation: reading, checking, and choosing which prompts to answer."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PspecError

FORMS = ("prompt", "messages", "text")
LABELS = ("kind", "source", "licence")  # carried through to the answers


class PromptError(PspecError):
    """A prompt file is missing, empty or malformed; the message names the line."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: chat messages, or a raw text to continue."""

    id: str
    where: str  # for messages
    labels: Mapping[str, str]
    content: str | tuple[Mapping[str, Any], ...]

    @property
    def normalised(self) -> str:
        """What makes two prompts the same one: their words, whatever the whitespace between them."""
        if isinstance(self.content, str):
            return "text\0" + " ".join(self.content.split())
        return "\0".join(f"{m['role']}\0{' '.join(str(m['content']).split())}" for m in self.content)


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, and the hash of its bytes."""

    prompts: list[Prompt]
    sha256: str


def load_prompts(path: Path) -> PromptFile:
    """Read a JSONL file: an object per line with `prompt`, `messages` or `text`, and if wanted `id`, `kind`, ...

    `prompt` is one user message, `messages` a chat that the target continues, `text` goes in without a chat template.

    Raises PromptError naming the file, the line and what is wrong with it.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"prompt file {path}: {error}") from error
    prompts = [_parse(line, n, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise PromptError(f"prompt file {path} is empty: expected one JSON object per line")
    return PromptFile(prompts, hashlib.sha256(content).hexdigest())


def choose(
    prompts: Sequence[Prompt], kinds: Sequence[str], shuffle_seed: int | None, dedupe: bool
) -> tuple[list[Prompt], int]:
    """Prompts of these kinds (none named: all), shuffled if asked, repeated ones once; and how many were repeated.

    Raises ConfigError for an unknown kind.
    """
    known = Counter(prompt.labels.get("kind", "") for prompt in prompts)
    if unknown := [kind for kind in kinds if kind not in known]:
        raise ConfigError(f"unknown kind {unknown[0]!r}: the prompt file has {', '.join(filter(None, known))}")
    wanted = [prompt for prompt in prompts if not kinds or prompt.labels.get("kind", "") in kinds]
    first: dict[str, Prompt] = {}
    for prompt in wanted:
        first.setdefault(prompt.normalised if dedupe else prompt.where, prompt)
    chosen = list(first.values())
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(chosen)
    return chosen, len(wanted) - len(chosen)


def _parse(line: str, number: int, where: str) -> Prompt:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise PromptError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise PromptError(f"{where}: expected an object, got {type(row).__name__}")
    forms = [form for form in FORMS if form in row]
    if len(forms) != 1:
        raise PromptError(
            f"{where}: expected one of `prompt`, `messages`, `text`; found {' and '.join(forms) or 'none'}"
        )
    labels = {name: row[name] for name in LABELS if row.get(name) is not None}
    if not all(isinstance(value, str) for value in labels.values()):
        raise PromptError(f"{where}: `kind`, `source` and `licence` must be texts")
    name = row.get("id", f"line-{number}")
    if not isinstance(name, (str, int)):
        raise PromptError(f"{where}: `id` must be a text or a number")
    return Prompt(str(name), where, labels, _content(forms[0], row[forms[0]], where))


def _content(form: str, value: Any, where: str) -> str | tuple[Mapping[str, Any], ...]:
    if form == "messages":
        if not isinstance(value, list) or not value or not all(_is_message(message) for message in value):
            raise PromptError(f"{where}: `messages` must be a list of objects with `role` and `content`")
        if value[-1]["role"] == "assistant":
            raise PromptError(f"{where}: the last of `messages` is the assistant's: the target is to write that one")
        return tuple(value)
    if not isinstance(value, str) or not value.strip():
        raise PromptError(f"{where}: `{form}` must be a non-empty text")
    return value if form == "text" else ({"role": "user", "content": value},)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and {"role", "content"} <= message.keys()
