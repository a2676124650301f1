"""Tokenizer: text and chats to ids, ids to text, and text streamed while ids are still coming."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import CheckpointError, RequestError

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\ufffd"


class Tokenizer:
    """The tokenizer of a checkpoint folder.

    Attributes:
        bos_id, eos_id: ids of the special tokens, or None.
        vocab_size: number of known ids, added tokens included.

    Raises:
        CheckpointError: the folder holds no tokenizer, or only one without a fast (Rust) form.
    """

    def __init__(self, folder: str | Path) -> None:
        self._hf = _load(Path(folder))
        self.name = str(folder)
        self.backend = self._hf.backend_tokenizer
        self.backend.no_truncation()  # a tokenizer.json may carry both from training
        self.backend.no_padding()
        self.bos_id: int | None = self._hf.bos_token_id
        self.eos_id: int | None = self._hf.eos_token_id
        self.vocab_size = self.backend.get_vocab_size(with_added_tokens=True)
        added = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.byte_ids = self._byte_fallback_ids()

    @property
    def has_chat_template(self) -> bool:
        return bool(self._hf.chat_template)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, with BOS if this tokenizer puts one; once, even if the text begins with it."""
        ids = self._encode(text, add_special_tokens=True)
        return ids[1:] if self.bos_id is not None and ids[:2] == [self.bos_id] * 2 else ids

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> list[int]:
        """Ids of a chat through the chat template, which writes its own BOS.

        Args:
            messages: each {"role": ..., "content": ...}.
            add_generation_prompt: end with the header of an assistant message.

        Raises:
            RequestError: there is no chat template, or it refuses these messages.
        """
        from jinja2 import TemplateError

        if not self.has_chat_template:
            raise RequestError(f"{self.name}: the tokenizer has no chat template; pass plain text, not messages")
        for message in messages:
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise RequestError(f"chat message {message!r}: expected a mapping with 'role' and 'content'")
        chat = [dict(message) for message in messages]
        try:
            text = self._hf.apply_chat_template(chat, tokenize=False, add_generation_prompt=add_generation_prompt)
        except (TemplateError, ValueError, TypeError) as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from error
        return self._encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ids, byte for byte: spaces before punctuation are kept."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def is_visible(self, token_id: int) -> bool:
        """False for ids that `decode` leaves out: special tokens, and ids it does not know."""
        return token_id not in self.special_ids and self.backend.id_to_token(token_id) is not None

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            text.encode("utf-8")
        except (AttributeError, UnicodeEncodeError) as error:
            message = f"prompt {text!r:.60}: expected a str of valid Unicode ({error})"
            raise RequestError(message) from error
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def _byte_fallback_ids(self) -> frozenset[int]:
        """Ids of single-byte tokens like <0xE4>, if the decoder joins runs of them."""
        if "ByteFallback" not in repr(self.backend.decoder):
            return frozenset()
        vocab = self.backend.get_vocab()
        return frozenset(i for token, i in vocab.items() if _BYTE_TOKEN.fullmatch(token))


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the Rust side raises plain Exception for a damaged tokenizer.json
        message = f"{folder}: no usable tokenizer ({error}); expected tokenizer.json there"
        raise CheckpointError(message) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        kind = type(tokenizer).__name__
        raise CheckpointError(f"{folder}: {kind} has no fast form; expected tokenizer.json there")
    return tokenizer


class StreamDecoder:
    """Turns ids into text as they come; the pieces joined equal `tokenizer.decode` of all ids.

    Only a window of recent ids is decoded anew. It starts where the text before it is complete, and
    some tokens before the unread ones, because some tokenizers drop the space in front of the first
    token they are given.
    """

    SPLIT_AFTER = 8
    SPLIT_TAIL = 4  # a character is at most 4 bytes: 4 tokens settle whether one spans a place

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._reset()

    def _reset(self) -> None:
        self._window: list[int] = []
        self._read = 0  # ids of the window whose text is out
        self._emitted = 0  # characters of the window's text that are out
        self._bytes: list[int] = []  # a run of byte tokens: only its end tells if it is valid

    def push(self, ids: Iterable[int]) -> str:
        """Take new ids and return the text that has become certain (may be empty)."""
        before = len(self._window)
        for token_id in ids:
            if token_id in self._tokenizer.byte_ids:
                self._bytes.append(token_id)
            elif self._tokenizer.is_visible(token_id):
                self._window += [*self._bytes, token_id]
                self._bytes.clear()
        return self._emit() if len(self._window) > before else ""

    def flush(self) -> str:
        """End of the ids: return what was held back, and start anew."""
        text = self._tokenizer.decode(self._window + self._bytes)[self._emitted :]
        self._reset()
        return text

    def _emit(self) -> str:
        text = self._tokenizer.decode(self._window)
        # A replacement character at the end may be a character whose bytes are not all there yet.
        complete = not text.endswith(_REPLACEMENT)
        certain = len(text) if complete else len(text) - 1
        delta = text[self._emitted : certain]
        self._emitted = max(self._emitted, certain)
        if complete:
            self._advance()
        elif len(self._window) - self._read > self.SPLIT_AFTER:
            self._split(text)
        return delta

    def _advance(self) -> None:
        """All text is out: drop the ids before those just read, unless these decode to nothing."""
        recent = self._window[self._read :]
        if context := self._tokenizer.decode(recent):
            self._window, self._emitted = recent, len(context)
        self._read = len(self._window)

    def _split(self, text: str) -> None:
        """A long run of invalid bytes: drop its front if no character spans the place."""
        head, tail = self._window[: -self.SPLIT_TAIL], self._window[-self.SPLIT_TAIL :]
        front = self._tokenizer.decode(head)
        if front + self._tokenizer.decode(tail) == text:
            self._window, self._read, self._emitted = tail, 0, self._emitted - len(front)
