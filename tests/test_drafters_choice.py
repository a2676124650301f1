"""Several drafters for one Generator: the same tokens whoever drafts, turns, reports, errors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import pytest
import torch

from pspec_rt import bandit as bandit_module
from pspec_rt import zoo
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.errors import CaptureError, ConfigError, PspecError
from pspec_rt.generator import Generator
from pspec_rt.result import GenerationOutput, Stats
from pspec_rt.state import DecodeState
from pspec_rt.team import Spec
from tests.drafter_fixtures import EAGLE, feature_checkpoint
from tests.tiny import scratch_folder, tiny_target

PROMPTS = [[5 + i, 6, 7 + i] * 4 for i in range(7)]
OPTIONS = {"max_new_tokens": 14, "ignore_eos": True}
SAMPLED = OPTIONS | {"temperature": 1.0, "seed": 3}
NAMES = ["ngram", EAGLE, "none"]


@pytest.fixture(scope="module")
def folder() -> Path:
    torch.manual_seed(0)
    path = scratch_folder("choice")
    feature_checkpoint(path)
    return path


def make(*drafters: Spec, **options: object) -> Generator:
    return Generator(tiny_target(), drafters=drafters, **{"max_length": 96, "max_batch": 2, **options})


@pytest.fixture
def several(folder: Path) -> Generator:
    return make("ngram", folder, None)


@pytest.fixture(scope="module")
def plain() -> Generator:
    return Generator(tiny_target(), None, max_length=96, max_batch=2)


def ids_of(outputs: list[GenerationOutput]) -> list[list[int]]:
    return [output.token_ids for output in outputs]


def fake_speeds(monkeypatch: pytest.MonkeyPatch, speeds: Callable[[int], float]) -> None:
    """Every answer of arm i came at speeds(i) tokens per second, whatever the clock says."""
    observe = bandit_module.Bandit.observe

    def faked(self: bandit_module.Bandit, arm: int, tokens: int, seconds: float) -> None:
        observe(self, arm, tokens, tokens / speeds(arm))

    monkeypatch.setattr(bandit_module.Bandit, "observe", faked)


@pytest.mark.parametrize("options", [OPTIONS, SAMPLED])
def test_one_request_after_another(several: Generator, plain: Generator, options: dict) -> None:
    outputs = [several.generate(prompt, **options) for prompt in PROMPTS]
    assert ids_of(outputs) == [plain.generate(prompt, **options).token_ids for prompt in PROMPTS]
    assert [output.stats.drafter for output in outputs[:3]] == NAMES
    for choice in several.choices:
        mine = [output.stats for output in outputs if output.stats.drafter == choice.name]
        assert choice.requests == len(mine) >= 1 and choice.stats.new_tokens == sum(stats.new_tokens for stats in mine)
        assert choice.tokens_per_s > 0 and choice.stats.drafter == choice.name
    assert several.choices[2].stats.drafted == 0 < several.choices[1].stats.drafted


@pytest.mark.parametrize("options", [OPTIONS, SAMPLED | {"n": 2}])
def test_a_batch_keeps_its_order(several: Generator, plain: Generator, options: dict) -> None:
    outputs = several.generate(PROMPTS, **options)
    expected = plain.generate(PROMPTS, **options)
    assert ids_of(outputs) == ids_of(expected)
    assert [(o.prompt_index, o.sample_index) for o in outputs] == [(o.prompt_index, o.sample_index) for o in expected]
    assert {output.stats.drafter for output in outputs} == set(NAMES)
    assert [output.stats.drafter for output in outputs[:6]] == [name for name in NAMES for _ in "ab"], "full turns"
    assert sum(choice.requests for choice in several.choices) == len(outputs)


class Unmakeable(NgramDrafter):
    """A drafter that finds out late that it cannot draft here."""

    kind = "unmakeable"

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def allocate(self, state: DecodeState, prefill_rows: int) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error", [ConfigError("too wide"), CaptureError("too wide"), torch.OutOfMemoryError("too wide")]
)
def test_who_cannot_start_is_left_out(plain: Generator, caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    """Three turns of two; the second drafter's engine cannot be made, and nothing of the others is lost."""
    caplog.set_level("WARNING", "pspec_rt")
    generator = make("ngram", Unmakeable(error), None)
    outputs = generator.generate(PROMPTS[:6], **OPTIONS)
    assert ids_of(outputs) == ids_of(plain.generate(PROMPTS[:6], **OPTIONS))
    assert {output.stats.drafter for output in outputs} == {"ngram", "none"}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["drafter unmakeable is left out from now on: too wide"]
    assert [(choice.name, choice.requests > 0) for choice in generator.choices] == [
        ("ngram", True),
        ("unmakeable", False),
        ("none", True),
    ]
    for prompts in (PROMPTS[:1], PROMPTS):  # with other numbers of slots, too
        assert "unmakeable" not in {output.stats.drafter for output in generator.generate(prompts, **OPTIONS)}
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_nobody_left_is_an_error() -> None:
    for drafters in ([Unmakeable(ConfigError("too wide"))], [Unmakeable(ConfigError("too wide")), "ngram"]):
        with pytest.raises(ConfigError, match="too wide"):
            make(*drafters).generate(PROMPTS[0], **OPTIONS)
    generator = make("ngram", Unmakeable(ConfigError("too wide")))
    generator.generate(PROMPTS[:4], **OPTIONS)
    generator.team.members[0].drafter = Unmakeable(ConfigError("the last one"))
    with pytest.raises(ConfigError, match="the last one"):
        generator.generate(PROMPTS[0], **OPTIONS)


def test_one_drafter_by_two_names_is_one_member(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "pspec_rt"):
        assert [choice.name for choice in make("auto", "ngram", "auto+ngram", "none").choices] == ["ngram", "none"]
    assert "drafters: auto and ngram are the same: one of them is used" in caplog.messages
    names = [choice.name for choice in make(folder, folder / ".." / folder.name, NgramDrafter(), "ngram").choices]
    assert names == [EAGLE, "ngram"]
    assert len(make(NgramDrafter(5), "ngram").choices) == 2
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    feature_checkpoint(tmp_path / "fits")
    names = [choice.name for choice in make("auto", "fits", "fits+ngram", "auto+ngram", "ngram").choices]
    assert names == [f"{EAGLE}+ngram", EAGLE, "ngram"]


def test_streams(several: Generator, plain: Generator) -> None:
    expected, got = plain.generate(PROMPTS, **SAMPLED), [[] for _ in PROMPTS]
    for chunk in several.generate(PROMPTS, stream=True, **SAMPLED):
        got[chunk.prompt_index] += chunk.token_ids
    assert got == ids_of(expected)
    streams = [several.generate(PROMPTS[i], stream=True, **OPTIONS) for i in range(4)]
    pieces: list[list[int]] = [[] for _ in streams]
    for chunks in zip_longest(*streams):
        for ids, chunk in zip(pieces, chunks, strict=True):
            ids += chunk.token_ids if chunk else []
    assert pieces == [plain.generate(PROMPTS[i], **OPTIONS).token_ids for i in range(4)]


def test_an_interrupt_returns_everything(several: Generator, plain: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plain.generate(PROMPTS, **OPTIONS)
    step, calls = Engine.step, []

    def interrupted(self: Engine) -> object:
        calls.append(id(self))
        if len(set(calls)) == 2 and calls.count(id(self)) == 4:
            raise KeyboardInterrupt  # in the second drafter's turn
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupted)
    outputs = several.generate(PROMPTS, **OPTIONS)
    assert [output.finish_reason for output in outputs] == ["length"] * 2 + ["interrupted"] * 5
    assert [output.stats.drafter for output in outputs] == ["ngram"] * 2 + [EAGLE] * 2 + [""] * 3
    assert 0 < len(outputs[2].token_ids) < 14
    monkeypatch.undo()
    assert ids_of(several.generate(PROMPTS, **OPTIONS)) == ids_of(whole)


def test_leaving_a_stream_frees_the_slots(several: Generator) -> None:
    stream = several.generate(PROMPTS, stream=True, **OPTIONS)
    next(stream)
    stream.close()
    assert len(several.team.members[0].engine.free_slots) == 2
    assert several.choices[0].requests == 2


def test_an_engine_is_made_when_it_is_needed(several: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    several.generate(PROMPTS[0], **OPTIONS)
    assert [member.engine is None for member in several.team.members] == [False, True, True]
    first = several.team.members[0].engine
    fake_speeds(monkeypatch, lambda arm: 100.0 - 50 * (arm > 0))
    for _ in range(4):
        several.generate(PROMPTS[0], **OPTIONS)
    assert several.team.members[0].engine is first


def test_the_fast_one_serves_and_a_change_is_followed(several: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    fastest = 1
    fake_speeds(monkeypatch, lambda arm: 100.0 if arm == fastest else 20.0)
    short = OPTIONS | {"max_new_tokens": 32}
    served = [several.generate(PROMPTS[0], **short).stats.drafter for _ in range(25)]
    assert served.count(EAGLE) > 18
    fastest = 2
    served = [several.generate(PROMPTS[0], **short).stats.drafter for _ in range(60)]
    assert served[40:].count("none") > 14


def test_a_turn_goes_on_while_its_drafter_is_the_best(several: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_speeds(monkeypatch, lambda arm: 100.0 if arm == 0 else 1.0)
    for _ in range(4):
        several.generate(PROMPTS[:2], **OPTIONS)
    picked = several.team.pick
    turns: list[str] = []

    def watched(slots: int) -> object:
        turns.append(picked(slots).name)
        return picked(slots)

    monkeypatch.setattr(several.team, "pick", watched)
    outputs = several.generate(PROMPTS, **OPTIONS)
    assert [output.stats.drafter for output in outputs].count("ngram") == 7 and set(turns) == {"ngram"}


def test_numbers_of_slots_are_told_apart(several: Generator) -> None:
    """Two sequences at a time are faster than one: that says nothing about who drafts better."""
    assert [several.generate(PROMPTS[0], **OPTIONS).stats.drafter for _ in range(2)] == NAMES[:2]
    assert {output.stats.drafter for output in several.generate(PROMPTS[:2], **OPTIONS)} == {"ngram"}


def test_nothing_to_generate(several: Generator) -> None:
    assert ids_of(several.generate(PROMPTS, max_new_tokens=0)) == [[]] * 7
    assert [choice.requests for choice in several.choices] == [0, 0, 0]


def test_one_drafter_is_reported_too(folder: Path) -> None:
    for drafter, name in ((None, "none"), ("auto", "ngram"), (folder, EAGLE)):
        generator = Generator(tiny_target(), drafter, max_length=96)
        assert generator.generate(PROMPTS[0], **OPTIONS).stats.drafter == name
        assert [(choice.name, choice.requests) for choice in generator.choices] == [(name, 1)]


def test_two_of_a_kind_are_told_apart(folder: Path, tmp_path: Path) -> None:
    feature_checkpoint(tmp_path / "other", k=2)
    drafters = [folder, tmp_path / "other", load_drafter(folder, tiny_target()), "none"]
    generator = make(*drafters)
    names = [choice.name for choice in generator.choices]
    assert [generator.generate(PROMPTS[0], **OPTIONS).stats.drafter for _ in names] == names
    assert names == [f"{EAGLE} ({folder})", f"{EAGLE} ({tmp_path / 'other'})", f"{EAGLE} (3)", "none"]


def test_k_and_tree_hold_for_all_that_draft(folder: Path) -> None:
    generator = make("ngram", folder, None, k=3)
    assert [member.tree and member.tree.name for member in generator.team.members] == ["chain(3)", "chain(3)", None]
    trees = [member.tree for member in make("ngram", None, tree="best-first:6").team.members]
    assert trees[0].nodes == 6 and trees[1] is None
    own = [member.tree.k for member in make("ngram", folder).team.members]
    assert own == [7, 4]


def test_statistics_of_several_add_up_to_all_their_names() -> None:
    total = Stats()
    for name in ("ngram", "", "none", "ngram"):
        total.add(Stats(drafter=name))
    assert total.drafter == "ngram, none"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"drafter": "ngram", "drafters": ["none"]}, ConfigError, "drafter and drafters were both given"),
        ({"drafter": None, "drafters": ["none"]}, ConfigError, "drafter and drafters were both given"),
        ({"drafters": []}, ConfigError, "one or more"),
        ({"drafters": "ngram"}, ConfigError, "drafters='ngram': expected a list"),
        ({"drafters": NgramDrafter()}, ConfigError, "expected a list"),
        ({"drafters": ["ngram", "none", "ngram"]}, ConfigError, "ngram was given twice"),
        ({"drafters": [None, "none"]}, ConfigError, "none was given twice"),
        ({"drafters": ["ngram", "/no/such/folder"]}, PspecError, "/no/such/folder"),
        ({"drafters": ["none"], "k": 3}, ConfigError, "need a drafter"),
        ({"drafters": ["none", "ngram"], "k": 99}, ConfigError, "k=99: the ngram drafter drafts"),
        ({"drafters": ["ngram"], "tree": "shrub"}, ConfigError, "unknown tree"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Generator(tiny_target(), **options)


def test_k_must_suit_every_drafter(folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"k=6: the {EAGLE} drafter drafts 1..4"):
        make("ngram", folder, k=6)
