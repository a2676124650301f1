"""Training texts: answer files of `distill`, conversations and plain texts, as token ids; which are held out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import PspecError
from ..tokenizer import Tokenizer
from .errors import TrainError

log = logging.getLogger("pspec_rt")

FORMS = "`prompt_ids` and `answer_ids` (from `pspec-rt distill`), `messages` ending with the assistant's, or `text`"
SHORTEST = 3  # tokens: with fewer no row has anything to predict


@dataclass(frozen=True)
class Text:
    """One training sequence: `prompt` tokens of a prompt, then what the target wrote."""

    id: str
    kind: str
    ids: tuple[int, ...]
    prompt: int
    origin: tuple[str, str] = ("", "")  # source and licence of the prompt, as far as the file states them

    @property
    def answer(self) -> int:
        """Number of tokens after the prompt."""
        return len(self.ids) - self.prompt


@dataclass
class TextFile:
    """What a data file holds; `skipped` counts sequences left out, by reason."""

    texts: list[Text]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return sum(len(text.ids) for text in self.texts)


def load_texts(path: Path, vocab_size: int, max_length: int, tokenizer: Callable[[], Tokenizer]) -> TextFile:
    """Read a JSONL file, one object per line; see FORMS for what it may hold.

    Args:
        vocab_size: of the target; an id beyond it is an error.
        max_length: longer sequences are counted and left out.
        tokenizer: called once, only for rows that hold text.

    Raises:
        TrainError: nothing there, a malformed line (named), ids of another vocabulary, or no usable sequence.
    """
    found, encode = TextFile([]), _Encoder(tokenizer)
    for where, row in _rows(path):
        text = _parse(row, where, encode)
        if not all(0 <= i < vocab_size for i in text.ids):
            raise TrainError(
                f"{where}: token id {max(text.ids)} is outside the target's vocabulary of {vocab_size}: the answers "
                "come from a target with another tokenizer; distil them again with this one"
            )
        if len(text.ids) > max_length:
            found.skipped[f"longer than {max_length} tokens"] += 1
        elif len(text.ids) < SHORTEST or not text.answer:
            found.skipped["no answer"] += 1
        else:
            found.texts.append(text)
    for reason, count in found.skipped.items():
        log.warning("%s: %d sequences skipped: %s", path, count, reason)
    if not found.texts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.skipped.items()) or "the file is empty"
        raise TrainError(f"{path}: no sequence to train on ({reasons})")
    return found


def split(texts: Sequence[Text], share: float, most: int) -> tuple[list[int], list[int]]:
    """Indices of the texts to train on, and of up to `most` held-out ones.

    A hash of the prompt decides, so all answers to a prompt go one way, also when the file grows.
    """
    prompts = [text.ids[: text.prompt] for text in texts]
    held = {prompt for prompt in prompts if _hash(prompt) < share}
    if not held or len(held) == len(set(prompts)):  # a handful of texts: the last prompt's are held out
        held = {prompts[-1]}
    train = [index for index, prompt in enumerate(prompts) if prompt not in held]
    if not train:
        raise TrainError("all texts answer one prompt: at least two prompts are needed, one of them held out")
    return train, [index for index, prompt in enumerate(prompts) if prompt in held][:most]


def _hash(prompt: tuple[int, ...]) -> float:
    """A number from 0 to 1."""
    return int.from_bytes(hashlib.blake2b(repr(prompt).encode(), digest_size=8).digest()) / 2**64


class _Encoder:
    """Text to ids; loads the tokenizer when first asked."""

    def __init__(self, make: Callable[[], Tokenizer]) -> None:
        self._make = make
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = self._make()
        return self._tokenizer

    def chat(self, messages: Sequence[dict[str, Any]]) -> tuple[list[int], int]:
        """Ids of a conversation, and how many of them come before the assistant's last message."""
        prompt = self.tokenizer.encode_chat(messages[:-1])
        whole = self.tokenizer.encode_chat(messages, add_generation_prompt=False)
        if whole[: len(prompt)] != prompt:
            whole = prompt + self.tokenizer.encode(messages[-1]["content"])
        return whole, len(prompt)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TrainError(f"{path}, line {number}: expected an object with {FORMS}")
                yield f"{path}, line {number}", row
    except (OSError, ValueError) as error:
        if isinstance(error, PspecError):
            raise
        raise TrainError(f"data file {path}: {error}") from error


def _parse(row: dict[str, Any], where: str, encode: _Encoder) -> Text:
    name, kind = str(row.get("id", where)), str(row.get("kind", ""))
    origin = str(row.get("source", "")), str(row.get("licence", row.get("license", "")))
    try:
        if "prompt_ids" in row and "answer_ids" in row:
            prompt, answer = [int(i) for i in row["prompt_ids"]], [int(i) for i in row["answer_ids"]]
            return Text(name, kind, tuple(prompt + answer), len(prompt), origin)
        if "messages" in row and row["messages"][-1]["role"] == "assistant":
            ids, prompt_length = encode.chat(row["messages"])
            return Text(name, kind, tuple(ids), prompt_length, origin)
        if "text" in row:
            return Text(name, kind, tuple(encode.tokenizer.encode(row["text"])), 1, origin)
    except (TypeError, ValueError, LookupError, PspecError) as error:
        raise TrainError(f"{where}: {error}; expected {FORMS}") from error
    raise TrainError(f"{where}: expected {FORMS}")
