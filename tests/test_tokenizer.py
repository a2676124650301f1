"""Tokenizer and StreamDecoder: BOS, chats, and streamed text that equals decoding everything at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, normalizers, pre_tokenizers

from pspec_rt.errors import CheckpointError, RequestError
from pspec_rt.tokenizer import StreamDecoder, Tokenizer
from tests.tiny import BOS, EOS, IM_START, SPECIAL, VOCAB, edit_json, save_tokenizer, scratch_folder

TEXTS = [
    "",
    " ",
    "  two  leading and  inner spaces , with punctuation . Right ?",
    "emoji 🙂👩‍👩‍👧‍👦🇵🇹 in a row 🙂🙂🙂",
    "中文字符，没有空格。日本語も。",
    "combining: e\u0301 a\u0308\u0323 n\u0303\u0303, \u0928\u092e\u0938\u094d\u0924\u0947",
    "a literal \ufffd, and one at the end \ufffd",
    "\n\n1. tabs\tand\r\nline ends\n\n\n",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ½ ٣ \u200b zero width",
]


@cache
def byte_level() -> Tokenizer:
    folder = scratch_folder("bytelevel")
    save_tokenizer(folder)
    return Tokenizer(folder)


@cache
def sentencepiece(style: str) -> Tokenizer:
    """A Llama-2 like tokenizer: ▁ for spaces, bytes for what is not in the vocabulary."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    words = ["", "▁", "▁▁", "▁the", "the", "▁a", "row", "▁row", "▁in", "好", "中", "e", "\u0301", ".", "▁.", "\ufffd"]
    for piece in [*words, *"abcdfghijklmnopqrstuvwxyz,:?0123456789"]:
        vocab.setdefault(piece, len(vocab))
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, [("▁", "▁"), ("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    fallback = [decoders.ByteFallback(), decoders.Fuse()]
    if style == "legacy":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), *fallback, decoders.Strip(" ", 1, 0)])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        metaspace = decoders.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence([*fallback[:1], metaspace])
    backend.add_special_tokens(["<s>", "</s>"])
    folder = scratch_folder("sentencepiece")
    backend.save(str(folder / "tokenizer.json"))
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>")
    return Tokenizer(folder)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "legacy": lambda: sentencepiece("legacy"),
    "metaspace": lambda: sentencepiece("metaspace"),
}


def check_stream(tokenizer: Tokenizer, ids: list[int], sizes: list[int] | None = None) -> list[str]:
    """Push the ids in groups (of one by default); the joined pieces must be the text of all. Returns the pieces."""
    stream, pieces, at = StreamDecoder(tokenizer), [], 0
    for size in sizes or [1] * len(ids):
        pieces.append(stream.push(ids[at : at + size]))
        at += size
    pieces += [stream.push(ids[at:]), stream.flush()]
    assert "".join(pieces) == tokenizer.decode(ids)
    assert stream.flush() == ""
    return pieces


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_streamed_text_equals_decoded_text(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text)
    check_stream(tokenizer, ids)
    check_stream(tokenizer, ids, [3] * (len(ids) // 3))
    check_stream(tokenizer, [EOS, *ids, *ids])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_streamed_text_equals_decoded_text_for_any_ids(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=80))
    sizes = data.draw(st.lists(st.integers(0, 6), max_size=30))
    check_stream(tokenizer, ids, sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_long_runs_of_odd_bytes(kind: str) -> None:
    tokenizer, chance = KINDS[kind](), random.Random(5)
    vocab = tokenizer.backend.get_vocab()
    spelling = {"byte level": ["ð", "Ł", "ĺ", "ħ", "\u0100", "¡", "Ä"]}  # bytes F0, 9F, 98, 85, 00, A1, C4
    odd = [vocab[token] for token in spelling.get(kind, ["<0xF0>", "<0x9F>", "<0x98>", "<0x85>", "<0xE4>"])]
    for choices in (odd, odd[:1], odd[1:2], odd[:4]):
        ids = [chance.choice(choices) for _ in range(600)]
        check_stream(tokenizer, ids)
        check_stream(tokenizer, [*ids, *tokenizer.encode(" the end")])


@pytest.mark.parametrize("kind", KINDS)
def test_cost_per_token_is_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids decoded over a whole stream grow linearly with it, odd bytes or not."""
    tokenizer, chance = KINDS[kind](), random.Random(5)
    decoded = [0]
    decode = Tokenizer.decode

    def counting(self: Tokenizer, ids: list[int], **options: Any) -> str:
        decoded[0] += len(ids)
        return decode(self, ids, **options)

    monkeypatch.setattr(Tokenizer, "decode", counting)
    vocab = list(range(tokenizer.vocab_size))
    invalid = [tokenizer.backend.get_vocab().get("Ł", EOS)]  # in the byte-level one a continuation byte
    for ids in ([chance.choice(vocab) for _ in range(2000)], invalid * 2000):
        stream, decoded[0] = StreamDecoder(tokenizer), 0
        for token_id in ids:
            stream.push([token_id])
        assert decoded[0] < 60 * len(ids)


def test_text_comes_as_soon_as_it_is_certain() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("hello 🙂 there")[1:]
    pieces = check_stream(tokenizer, ids)
    assert pieces[0] == "hello" and pieces[-1] == ""
    assert [piece for piece in pieces if "🙂" in piece] == ["🙂"]
    assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize("style", ["legacy", "metaspace"])
def test_spaces_survive_pieces_without_text(style: str) -> None:
    """The space of a piece must not be taken for the one that is dropped in front of a whole text."""
    tokenizer = sentencepiece(style)
    row, empty, space, the = (tokenizer.backend.get_vocab()[piece] for piece in ("▁row", "", "▁", "▁the"))
    for ids in ([row, empty, the], [row, EOS, the], [row, space, the], [empty, the, the], [space, the], [the, the]):
        assert check_stream(tokenizer, ids)[-3:] != [""] * 3
    assert tokenizer.decode([row, empty, the]) == "row the"


def test_special_and_unknown_ids_are_not_shown() -> None:
    tokenizer = byte_level()
    assert check_stream(tokenizer, [BOS, *tokenizer.encode("hello")[1:], EOS, VOCAB + 50]) == ["", "hello"] + [""] * 4
    assert tokenizer.decode([BOS, EOS]) == ""
    assert tokenizer.decode([BOS, EOS], skip_special_tokens=False) == SPECIAL[BOS] + SPECIAL[EOS]


def test_bos_is_added_once(tmp_path: Path) -> None:
    tokenizer = byte_level()
    assert tokenizer.encode("hello") == tokenizer.encode("<|bos|>hello") == [BOS, *tokenizer.encode("hello")[1:]]
    assert tokenizer.encode("hello").count(BOS) == 1 and tokenizer.encode("") == [BOS]
    save_tokenizer(tmp_path, add_bos=False)
    plain = Tokenizer(tmp_path)
    assert plain.encode("hello") == tokenizer.encode("hello")[1:]
    assert plain.encode("<|bos|>hello") == tokenizer.encode("hello")


def test_chats_have_one_bos() -> None:
    tokenizer = byte_level()
    chat = [{"role": "user", "content": "hello there"}]
    ids = tokenizer.encode_chat(chat)
    assert ids[:2] == [BOS, IM_START] and ids.count(BOS) == 1
    text = "<|bos|><|im_start|>user\nhello there<|im_end|>\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == text + "<|im_start|>assistant\n"
    closed = tokenizer.encode_chat(chat, add_generation_prompt=False)
    assert tokenizer.decode(closed, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "wizard", "content": "x"}], "unknown role wizard"),
        ([{"role": "user"}], "'role' and 'content'"),
        (["hello"], "expected a mapping"),
        ([], "empty"),
        ([{"role": "user", "content": "\ud800"}], "valid Unicode"),
    ],
)
def test_bad_chats(messages: list[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        byte_level().encode_chat(messages)


def test_no_chat_template(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, chat=False)
    tokenizer = Tokenizer(tmp_path)
    assert not tokenizer.has_chat_template and byte_level().has_chat_template
    with pytest.raises(RequestError, match="no chat template; pass plain text"):
        tokenizer.encode_chat([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("text", ["\ud800", None, 5, ["a"]])
def test_what_is_not_text(text: Any) -> None:
    with pytest.raises(RequestError, match="expected a str"):
        byte_level().encode(text)


def test_no_or_damaged_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        Tokenizer(tmp_path)
    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        Tokenizer(tmp_path)


def test_truncation_saved_with_the_tokenizer_is_off(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "the quick brown fox jumps over the lazy dog"
    assert Tokenizer(tmp_path).encode(text) == byte_level().encode(text)


def test_the_real_tokenizer(smollm2: Path) -> None:
    """SmolLM2 splits off single digits before anything else, and puts no BOS."""
    tokenizer = Tokenizer(smollm2)
    assert tokenizer.vocab_size == 49_152 and (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    newlines = tokenizer.encode("\n\n")
    assert len(newlines) == 1
    assert tokenizer.encode("\n\n1.") == newlines + tokenizer.encode("1") + tokenizer.encode(".")
    digits = [tokenizer.encode(digit) for digit in "2024"]
    assert tokenizer.encode("2024") == [digit[0] for digit in digits]
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        check_stream(tokenizer, ids)
    chat = tokenizer.encode_chat([{"role": "user", "content": "Hi"}])
    assert chat[0] == 1 and chat.count(1) == 3  # <|im_start|> of system, user and assistant
    assert tokenizer.decode(chat).startswith("system\nYou are a helpful AI assistant named SmolLM")
    chance = random.Random(1)
    check_stream(tokenizer, [chance.randrange(49_152) for _ in range(3000)])
