"""The Generator: kinds of prompts, batches, seeds, stops, streaming, interruption, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import pytest

from pspec_rt.engine import Engine
from pspec_rt.errors import ConfigError, PspecError, RequestError
from pspec_rt.generator import Generator
from pspec_rt.result import StreamChunk
from tests.tiny import tiny_target


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(tiny_target(dtype="fp32"), drafter="ngram", max_length=160, max_batch=2, prefill_chunk=16)


def test_kinds_of_prompts(generator: Generator) -> None:
    text = generator.generate("hello there", max_new_tokens=6)
    ids = generator.generate(generator.encode("hello there"), max_new_tokens=6)
    assert text.token_ids == ids.token_ids and len(text.token_ids) <= 6
    chat = generator.generate([{"role": "user", "content": "hello there"}], max_new_tokens=6)
    assert chat.stats.prompt_tokens > text.stats.prompt_tokens
    batch = generator.generate(
        ["hello there", [5, 6, 7], [{"role": "user", "content": "hello there"}]], max_new_tokens=6
    )
    assert [output.prompt_index for output in batch] == [0, 1, 2]
    assert batch[0].token_ids == text.token_ids and batch[2].token_ids == chat.token_ids


def test_one_seed_gives_one_text_in_any_company(generator: Generator) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    alone = generator.generate([5, 6, 7], seed=11, **options)
    batch = generator.generate([[5, 6, 7], [8, 9], [5, 6, 7]], seed=11, **options)
    assert batch[0].token_ids == alone.token_ids != batch[2].token_ids
    listed = generator.generate([[8, 9], [5, 6, 7]], seed=[3, 11], **options)
    assert listed[1].token_ids == alone.token_ids
    plain = Generator(generator.target, drafter=None, max_length=160, prefill_chunk=16)
    assert plain.generate([5, 6, 7], seed=11, **options).token_ids == alone.token_ids


def test_an_unseeded_run_can_be_repeated(generator: Generator) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    first, second = (generator.generate([5, 6, 7], **options) for _ in range(2))
    assert first.token_ids != second.token_ids
    assert generator.generate([5, 6, 7], seed=first.seed, **options).token_ids == first.token_ids


def test_several_samples(generator: Generator) -> None:
    outputs = generator.generate([[5, 6], [7, 8]], n=3, max_new_tokens=8, temperature=1.0, seed=1, ignore_eos=True)
    assert [(o.prompt_index, o.sample_index) for o in outputs] == [(i, j) for i in range(2) for j in range(3)]
    assert len({tuple(output.token_ids) for output in outputs}) == 6


def test_max_new_tokens_zero(generator: Generator) -> None:
    output = generator.generate([5, 6], max_new_tokens=0)
    assert (output.text, output.token_ids, output.finish_reason) == ("", [], "length")
    assert [o.finish_reason for o in generator.generate([[5], [6]], max_new_tokens=0)] == ["length"] * 2


def test_streaming_gives_the_same_text(generator: Generator) -> None:
    options = {"max_new_tokens": 40, "temperature": 1.0, "seed": 4}
    whole = generator.generate(["one", "two", "three"], **options)
    texts, ids, outputs = ["", "", ""], [[], [], []], {}
    for chunk in generator.generate(["one", "two", "three"], stream=True, **options):
        texts[chunk.prompt_index] += chunk.text
        ids[chunk.prompt_index] += chunk.token_ids
        if chunk.output is not None:
            outputs[chunk.prompt_index] = chunk.output
    assert texts == [output.text for output in whole] == [outputs[i].text for i in range(3)]
    assert ids == [output.token_ids for output in whole]


def test_stop_strings_never_leak(generator: Generator) -> None:
    options = {"max_new_tokens": 60, "temperature": 1.0, "seed": 4, "ignore_eos": True}
    whole = generator.generate("stop test", **options)
    assert len(whole.text) > 20
    for at in (3, 11, 17):
        stop = whole.text[at : at + 3]
        cut = whole.text[: whole.text.index(stop)]
        chunks = list(generator.generate("stop test", stop=stop, stream=True, **options))
        output = chunks[-1].output
        assert "".join(chunk.text for chunk in chunks) == cut == output.text
        assert output.finish_reason == "stop"
        assert output.token_ids == whole.token_ids[: len(output.token_ids)]
        stats = output.stats
        assert stats.new_tokens == len(output.token_ids) == stats.rounds + stats.accepted
        assert sum(stats.accepted_per_position) == stats.accepted


def test_the_end_token_is_not_shown(generator: Generator) -> None:
    whole = generator.generate([5, 6, 7], max_new_tokens=20, temperature=1.0, seed=2, ignore_eos=True)
    stop_id = whole.token_ids[7]
    output = generator.generate(
        [5, 6, 7], max_new_tokens=20, temperature=1.0, seed=2, ignore_eos=True, stop_token_ids=[stop_id]
    )
    end = whole.token_ids.index(stop_id)
    assert output.token_ids == whole.token_ids[: end + 1] and output.finish_reason == "stop"
    assert output.text == generator.tokenizer.decode(whole.token_ids[:end])


def test_logprobs(generator: Generator) -> None:
    output = generator.generate([5, 6, 7], max_new_tokens=9, logprobs=2, ignore_eos=True)
    assert len(output.logprobs) == 9
    for token, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert next(iter(entry.top)) == token and entry.top[token] == entry.logprob <= 0


def test_keyboard_interrupt_returns_what_was_generated(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generator.generate([[5, 6], [7, 8], [9]], max_new_tokens=30, ignore_eos=True)
    step, calls = Engine.step, []

    def interrupted(self: Engine) -> object:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted)
    outputs = generator.generate([[5, 6], [7, 8], [9]], max_new_tokens=30, ignore_eos=True)
    assert [output.finish_reason for output in outputs] == ["interrupted"] * 3
    assert 0 < len(outputs[0].token_ids) < 30 and outputs[2].token_ids == []
    for got, expected in zip(outputs, whole, strict=True):
        assert got.token_ids == expected.token_ids[: len(got.token_ids)]
    monkeypatch.undo()
    again = generator.generate([[5, 6], [7, 8], [9]], max_new_tokens=30, ignore_eos=True)
    assert [o.token_ids for o in again] == [o.token_ids for o in whole]


def test_leaving_a_stream_frees_the_slots(generator: Generator) -> None:
    stream: Iterator[StreamChunk] = generator.generate([[5, 6], [7, 8]], max_new_tokens=30, stream=True)
    next(stream)
    stream.close()
    assert len(generator.team.members[0].engine.free_slots) == 2


def test_streams_may_be_interleaved_and_left_open(generator: Generator) -> None:
    prompts, options = ([5, 6, 7], [8, 9]), {"max_new_tokens": 20, "ignore_eos": True}
    expected = [generator.generate(prompt, **options).token_ids for prompt in prompts]
    streams = [generator.generate(prompt, stream=True, **options) for prompt in prompts]
    got: list[list[int]] = [[], []]
    for pair in zip_longest(*streams):
        for tokens, chunk in zip(got, pair, strict=True):
            tokens += chunk.token_ids if chunk else []
    assert got == expected
    left_open = generator.generate(prompts[0], stream=True, **options)
    next(left_open)
    assert generator.generate(prompts[1], **options).token_ids == expected[1]
    assert list(left_open)[-1].output.token_ids == expected[0]


def test_a_stream_of_nothing_leaves_others_alone(generator: Generator) -> None:
    options = {"max_new_tokens": 20, "ignore_eos": True, "stream": True}
    expected = generator.generate([[5, 6, 7], [8, 9]], **options | {"stream": False})
    nothing = generator.generate([[5], [6]], max_new_tokens=0, stream=True)
    next(nothing)
    other = generator.generate([[5, 6, 7], [8, 9]], **options)
    chunks = [next(other)]
    assert [chunk.output.finish_reason for chunk in nothing] == ["length"]
    chunks += other
    outputs = {chunk.prompt_index: chunk.output for chunk in chunks if chunk.output is not None}
    assert [outputs[i].token_ids for i in range(2)] == [output.token_ids for output in expected]


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([], {}, RequestError, "prompt is empty"),
        ("x" * 500, {}, RequestError, "exceed the capacity of 160"),
        (5, {}, RequestError, "not int"),
        ([[5], [[6]]], {}, RequestError, "prompt 1 is neither"),
        ([5], {"temperature": -1}, RequestError, "temperature=-1"),
        ([5], {"temperature": "hot"}, RequestError, "temperature='hot'"),
        ([5], {"top_p": 0.0}, RequestError, "top_p=0.0"),
        ([5], {"n": 0}, RequestError, "n=0"),
        ([5], {"seed": [1, 2]}, RequestError, r"a list of 1 ints"),
        ([5], {"stop": [""]}, RequestError, "non-empty strings"),
        ([5], {"logprobs": 21}, RequestError, "logprobs=21"),
        ([5], {"max_tokens": 5}, TypeError, "max_tokens"),
        ([[5], [10_000]], {}, RequestError, "10000"),
    ],
)
def test_bad_requests(
    generator: Generator, prompts: object, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generator.generate(prompts, **options)


def test_a_bad_stream_request_fails_at_the_call(generator: Generator) -> None:
    with pytest.raises(RequestError):
        generator.generate([[5], []], stream=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"drafter": None, "k": 3}, ConfigError, "need a drafter"),
        ({"drafter": "ngram", "tree": "shrub"}, ConfigError, "unknown tree"),
        ({"drafter": "/no/such/folder"}, PspecError, "/no/such/folder"),
        ({"max_length": 10**9}, ConfigError, "max_length"),
        ({"max_batch": 0}, ConfigError, "max_batch=0"),
        ({"max_batch": -3}, ConfigError, "max_batch=-3"),
        ({"prefill_chunk": 0}, ConfigError, "prefill_chunk=0"),
        ({"simulate_acceptance": 7, "drafter": "ngram"}, ConfigError, "simulate_acceptance=7"),
        ({"simulate_acceptance": 0.5, "drafter": None}, ConfigError, "simulate_acceptance needs a drafter"),
        ({"simulate_acceptance": 0.5, "drafters": ["ngram", None]}, ConfigError, "simulate_acceptance needs a drafter"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Generator(tiny_target(dtype="fp32"), **options)


def test_more_prompts_than_slots(generator: Generator) -> None:
    prompts = [[i + 5, i + 6] for i in range(7)]
    together = generator.generate(prompts, max_new_tokens=10, ignore_eos=True)
    for prompt, output in zip(prompts, together, strict=True):
        assert output.token_ids == generator.generate(prompt, max_new_tokens=10, ignore_eos=True).token_ids
