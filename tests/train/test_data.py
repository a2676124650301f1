"""Reading texts, the target's view of them, its cache on disk, and the draft vocabulary."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pspec_rt.tokenizer import Tokenizer
from pspec_rt.train import features
from pspec_rt.train.data import Text, load_texts, split
from pspec_rt.train.errors import TrainError
from pspec_rt.train.features import TOP, LiveFeatures, Reader, Seen, features_of
from pspec_rt.train.vocab import choose_vocab, count_tokens, coverage
from tests.tiny import VOCAB, tiny_checkpoint
from tests.train.setups import target, texts, write_data

TAPS = (1, -1)


def load(path: Path, max_length: int = 64) -> Any:
    return load_texts(path, VOCAB, max_length, lambda: Tokenizer(tiny_checkpoint()))


def rows(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


# -- texts -----------------------------------------------------------------------------------------


def test_answers_chats_and_plain_texts(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the quick brown fox"}]
    found = load(
        rows(
            tmp_path / "d.jsonl",
            {"id": "a", "kind": "qa", "prompt_ids": [5, 6], "answer_ids": [7, 8, 9]},
            "",
            {"messages": chat},
            {"text": "hello there world"},
        )
    )
    tokenizer = Tokenizer(tiny_checkpoint())
    assert found.texts[0] == Text("a", "qa", (5, 6, 7, 8, 9), 2)
    assert found.texts[1].prompt == len(tokenizer.encode_chat(chat[:1]))
    assert "the quick brown fox" in tokenizer.decode(found.texts[1].ids[found.texts[1].prompt :])
    assert found.texts[2].ids == tuple(tokenizer.encode("hello there world"))
    assert found.tokens == sum(len(text.ids) for text in found.texts)


def test_long_and_empty_texts_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = rows(
        tmp_path / "d.jsonl",
        *({"prompt_ids": [5], "answer_ids": [6] * n} for n in (4, 70, 0, 80)),
    )
    found = load(path)
    assert len(found.texts) == 1
    assert found.skipped == {"longer than 64 tokens": 2, "no answer": 1}
    assert "2 sequences skipped: longer than 64 tokens" in caplog.text


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "no sequence to train on"),
        ([{"prompt_ids": [1] * 70, "answer_ids": [2]}], "1 longer than 64 tokens"),
        ([{"prompt_ids": [1], "answer_ids": [VOCAB, 2]}], f"token id {VOCAB} is outside the target's vocabulary"),
        ([{"prompt": "hello"}], "line 1: expected `prompt_ids`"),
        (["{"], "d.jsonl"),
        (["[]"], "line 1: expected an object"),
        ([{"messages": []}], "line 1"),
    ],
)
def test_bad_data_is_refused_with_the_reason(lines: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=message.replace("(", r"\(")):
        load(rows(tmp_path / "d.jsonl", *lines))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="nothing.jsonl"):
        load(tmp_path / "nothing.jsonl")


def test_all_answers_to_a_prompt_are_held_out_together() -> None:
    many = texts(300)
    again = [Text(t.id, t.kind, (*t.ids, 5), t.prompt) for t in many]
    train, held = split(many + again, 0.1, 500)
    assert not {(many + again)[i].ids[:3] for i in train} & {(many + again)[i].ids[:3] for i in held}
    assert 20 < len(held) < 120 and len(train) + len(held) == 600
    assert set(split(many, 0.1, 500)[1]) == {i for i in held if i < 300}, "growing the file moves no text"
    assert len(split(many, 0.1, 4)[1]) == 4
    assert split(texts(2), 0.0, 4) == ([0], [1])
    with pytest.raises(TrainError, match="two prompts"):
        split(texts(1), 0.1, 4)


# -- the target's view -------------------------------------------------------------------------------


def test_reader_gives_states_and_best_tokens() -> None:
    text = texts(1)[0]
    seen = Reader(target(), TAPS, 64).read(text.ids)
    final_TM = seen.features_TF[:, 64:]
    logprobs = (final_TM @ target().decoder.head_VM.T).log_softmax(-1)
    best = logprobs.topk(TOP)
    assert torch.equal(seen.top_ids_TC, best.indices)
    torch.testing.assert_close(seen.top_logprobs_TC, best.values, rtol=1e-4, atol=1e-4)
    assert seen.ids_T.tolist() == list(text.ids)


def assert_same(a: Seen, b: Seen) -> None:
    assert torch.equal(a.ids_T, b.ids_T) and torch.equal(a.features_TF, b.features_TF)
    assert torch.equal(a.top_ids_TC, b.top_ids_TC)
    torch.testing.assert_close(a.top_logprobs_TC, b.top_logprobs_TC, rtol=1e-3, atol=2e-2)  # kept in fp16


def test_cached_features_are_the_live_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_TOKENS", 100)
    many = texts(12)
    live, told = LiveFeatures(Reader(target(), TAPS, 64), many), []
    cached = features_of(target(), TAPS, many, tmp_path, told.append)
    assert sum(told) == sum(len(text.ids) for text in many) and len(list(tmp_path.iterdir())) > 2
    for index in range(len(many)):
        assert_same(cached[index], live[index])


def test_a_cache_goes_on_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_TOKENS", 100)
    many, told = texts(12), []

    def stop(tokens: int) -> None:
        told.append(tokens)
        if len(told) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(target(), TAPS, many, tmp_path, stop)
    before = len(told)
    features_of(target(), TAPS, many, tmp_path, told.append)
    assert before < len(told) < before + 12, "whole shards are kept"
    grown = []
    features_of(target(), TAPS, many + texts(3, seed=5), tmp_path, grown.append)
    assert 3 <= len(grown) < 9, "only the last shard and the new texts"
    other = []
    both = features_of(target(), (2, *TAPS), many, tmp_path, other.append)
    assert len(other) == 12, "the new tap is read"
    fewer = features_of(target(), TAPS[-1:], many, tmp_path, other.append)
    assert len(other) == 12, "the others were there"
    assert torch.equal(both[3].features_TF[:, -64:], fewer[3].features_TF)
    assert_same(both[3], Reader(target(), (2, *TAPS), 64).read(many[3].ids))


def test_a_torn_file_of_the_cache_is_made_again(tmp_path: Path) -> None:
    many, told = texts(4), []
    whole = features_of(target(), TAPS, many, tmp_path, told.append)[2]
    (torn,) = tmp_path.glob(f"*/tap{TAPS[0]}.bin")
    torn.write_bytes(torn.read_bytes()[:-8])
    assert_same(features_of(target(), TAPS, many, tmp_path, told.append)[2], whole)
    assert len(told) == 8 and not list(tmp_path.glob("*/*.new"))


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(TrainError, match="0.0 GB are free: make room"):
        features_of(target(), TAPS, texts(2), tmp_path / "cache", lambda tokens: None)


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(TrainError, match="the disk is full"):
        features_of(target(), TAPS, texts(2), tmp_path / "cache", lambda tokens: None)


def test_families_without_features_cache_none(tmp_path: Path) -> None:
    seen = features_of(target(), (), texts(2), tmp_path, lambda tokens: None)[1]
    assert seen.features_TF.shape == (len(seen.ids_T), 0)


# -- draft vocabulary --------------------------------------------------------------------------------


def test_vocabulary_by_frequency() -> None:
    counts = torch.tensor([5, 0, 9, 9, 1, 7])
    assert choose_vocab(counts, 3).tolist() == [2, 3, 5]
    assert choose_vocab(counts, 3, always=[1]).tolist() == [1, 2, 3]
    for size in (0, 7):
        with pytest.raises(TrainError, match="expected 1..6"):
            choose_vocab(counts, size)


def test_coverage_counts_answers() -> None:
    rows = [Text("", "", (1, 1, 2, 3, 3), 2)]
    assert count_tokens(rows, 5).tolist() == [0, 2, 10, 20, 0]
    assert coverage(torch.tensor([3]), rows, 5) == pytest.approx(2 / 3)


def test_write_data_round_trip(tmp_path: Path) -> None:
    assert load(write_data(tmp_path / "d.jsonl", texts(3))).texts == texts(3)
