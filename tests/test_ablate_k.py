"""One drafter cut to every K: who takes part, the figures by hand, the command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from bench import ablate_k as command
from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.errors import ConfigError
from pspec_rt.generator import Generator
from pspec_rt.measure import arms
from pspec_rt.measure.ablation import AblationConfig, Cut, ablate, arms_of, checks_of
from pspec_rt.measure.arms import Asked, lines_of, name_of
from pspec_rt.measure.contender import Answer
from pspec_rt.measure.ours import PspecContender
from pspec_rt.measure.questions import Question, load_questions
from pspec_rt.measure.run import room
from pspec_rt.measure.summary import row_of
from pspec_rt.result import Stats
from pspec_rt.tree import TreeSpec
from tests.drafter_fixtures import feature_checkpoint
from tests.tiny import tiny_checkpoint, tiny_target

ROWS = [
    {"question_id": 1, "category": "writing", "turns": ["hello there", "and hello moon"]},
    {"question_id": 2, "category": "qa", "turns": ["ab ab ab ab ab"]},
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Questions, a drafter of 4 depths and one of 2."""
    (tmp_path / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    for name, k in (("four", 4), ("two", 2)):
        feature_checkpoint(tmp_path / name, k=k)
    return tmp_path


def config_of(files: Path, **options: Any) -> AblationConfig:
    asked = Asked(files / "questions.jsonl", nodes=6, max_new_tokens=8, limit=options.pop("limit", None))
    return AblationConfig(asked, files / "four", **{"ks": (3, 4)} | options)


def test_who_takes_part(files: Path) -> None:
    drafters = {name: load_drafter(files / name, tiny_target()) for name in ("four", "two")}
    found = arms_of(config_of(files), drafters)
    assert [(arm.drafter, arm.trained_k, arm.k, arm.shape) for arm in found] == [
        ("four", 4, 2, "chain"),  # for the check: nobody asked for 2
        ("four", 4, 2, "tree"),
        ("two", 2, 2, "chain"),
        ("two", 2, 2, "tree"),
        ("four", 4, 3, "chain"),
        ("four", 4, 3, "tree"),
        ("four", 4, 4, "chain"),
        ("four", 4, 4, "tree"),
    ]
    assert [arm.retrained for arm in found] == [arm.drafter == "two" for arm in found]
    with pytest.raises(ConfigError, match=r"four \(parallelspec-eagle\) drafts at most 4 tokens.* k=5"):
        arms_of(config_of(files, ks=(2, 5)), drafters)
    with pytest.raises(ConfigError, match=r"two \(parallelspec-eagle\) drafts at most 2 tokens.* k=4"):
        arms_of(AblationConfig(Asked(""), "two", ks=(1,)), dict(reversed(drafters.items())))


def answer(tokens: list[int], seconds: float, per_position: list[int]) -> Answer:
    accepted = sum(per_position)
    stats = Stats(3, len(tokens), len(tokens) - accepted, 9, accepted, per_position, verify_s=seconds)
    return Answer(tokens, seconds, stats=stats)


def test_figures_by_hand() -> None:
    cut, own = Cut("eight", 8, False, 2, "chain"), Cut("two", 2, True, 2, "chain")
    first = {"plain": answer([1, 2, 3, 4], 4, []), name_of(cut): answer([1, 2, 3, 4], 2, [1, 1])}
    second = {"plain": answer([5, 6], 2, []), name_of(cut): answer([5, 6], 2, [0, 0])}
    first[name_of(own)], second[name_of(own)] = answer([1, 2, 3, 4], 1.5, [2, 0]), answer([5, 9], 1.5, [0, 0])
    rows = [row_of(Question(i, "a", "a", ("",)), 3, [turn]) for i, turn in enumerate((first, second))]
    plain, shortened, trained = lines_of([cut, own], rows)
    assert (plain["k"], plain["tokens_per_s"], plain["speedup_over_plain"], plain["identical_tokens"]) == (
        0,
        1,
        1,
        True,
    )
    assert shortened["tokens_per_s"] == shortened["speedup_over_plain"] == 1.5
    assert shortened["speedup_over_plain_median"] == (2 + 1) / 2
    assert shortened["mean_acceptance_length"] == 6 / 4 and shortened["acceptance_per_position"] == [0.25, 0.25]
    assert shortened["identical_tokens"] and not trained["identical_tokens"]
    assert trained["acceptance_per_position"] == [0.5, 0] and trained["trained_k"] == 2
    (check,) = checks_of([plain, shortened, trained])
    assert (check["drafter"], check["k"], check["shape"]) == ("two", 2, "chain")
    assert check["acceptance_length_cut"] == check["acceptance_length_retrained"] == 1.5
    assert check["cut_over_retrained"] == 0.75


def test_every_arm_drafts_as_a_generator_of_its_k_and_tree(files: Path) -> None:
    """Acceptance is that of the same generator alone, and every question is answered by all, on the same ids."""
    config = config_of(files, ks=(2, 4), retrained=(str(files / "two"),), limit=2)
    done: list[tuple[int, int]] = []
    report = ablate(config, tiny_target(), lambda *progress: done.append(progress))
    assert done == [(1, 2), (2, 2)] and not report.different and not report.skipped
    for line in report.lines[1:]:
        k = line["k"]
        tree = TreeSpec.chain(k) if line["shape"] == "chain" else TreeSpec.best_first(k, 6)
        alone = Generator(tiny_target(), str(files / line["drafter"]), k=k, tree=tree)
        stats = Stats()
        for question in load_questions(files / "questions.jsonl"):
            said: list[dict[str, str]] = []
            for turn in question.turns:
                said.append({"role": "user", "content": turn})
                output = alone.generate(said, max_new_tokens=8, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
                said.append({"role": "assistant", "content": output.text})
                stats.add(output.stats)
        assert line["mean_acceptance_length"] == stats.mean_acceptance_length
        assert line["acceptance_per_position"] == stats.acceptance_rate_per_position and line["tokens_per_s"] > 0
    assert [(check["drafter"], check["k"]) for check in report.checks] == [("two", 2)] * 2


def test_conversations_fit_the_room_that_is_made() -> None:
    questions = [Question(1, "a", "a", ("hello there", "x" * 50)), Question(2, "a", "a", ("hi",))]
    generator, needed = Generator(tiny_target(), None), room(questions, tiny_target(), 10)
    said = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "said so before"}]
    assert len(generator.encode([*said, {"role": "user", "content": "x" * 50}])) + 10 <= needed < 250
    assert room([Question(1, "a", "a", ("x" * 5000,))], tiny_target(), 10) == 512, "the model's limit"


@pytest.fixture
def argv(files: Path) -> list[str]:
    options = {"--questions": files / "questions.jsonl", "--drafter": files / "four", "--target": tiny_checkpoint()}
    return [*(str(x) for pair in options.items() for x in pair), "--max-new-tokens", "6", "--threads", "1", "--k", "2"]


def test_the_command_writes_table_json_and_plot(
    argv: list[str], files: Path, threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = files / "out.json"
    assert command.main([*argv, "--nodes", "5", "--retrained", str(files / "two"), "--json", str(out)]) == 0
    captured = capsys.readouterr()
    assert "speed-up" in captured.out and "K = 2, chain: cut" in captured.out
    report = json.loads(out.read_text())
    assert set(report) == {"meta", "lines", "checks", "questions", "skipped"}
    assert {"date", "commit", "device", "dtype", "threads", "nodes", "drafters"} <= set(report["meta"])
    shapes = [(line["drafter"], line["k"], line["shape"]) for line in report["lines"]]
    cut_and_own = [(name, 2, shape) for name in ("four", "two") for shape in ("chain", "tree")]
    assert shapes == [(None, 0, "plain"), *cut_and_own]
    if importlib.util.find_spec("matplotlib") is None:
        assert "matplotlib is not installed" in captured.err
    else:
        assert out.with_suffix(".svg").read_text().count("<svg") == 1


def test_a_difference_is_exit_code_1(
    argv: list[str], threads: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(PspecContender):
        def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
            said = super().answer(prompt_ids, max_new_tokens)
            return Answer(said.token_ids[:-1] if "tree" in self.name else said.token_ids, 1.0, said.text, said.stats)

    monkeypatch.setattr(arms, "PspecContender", Forgetful)
    assert command.main([*argv, "--nodes", "5"]) == 1
    assert "differs from plain output: four k=2 tree" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "2,3,5"], "four (parallelspec-eagle) drafts at most 4 tokens and cannot be cut to k=5"),
        (["--k", "two"], "--k 'two': expected whole numbers, separated by commas"),
        (["--k", "0,2"], "k=0,2: expected whole numbers >= 1"),
        (["--k", "2,2"], "each once"),
        (["--nodes", "1"], "nodes=1"),
        (["--nodes", "65"], "at most 64"),
        (["--max-new-tokens", "0"], "max_new_tokens=0"),
        (["--drafter", "none"], "drafter none: expected a checkpoint"),
        (["--json", "/no/such/folder/out.json"], "there is no folder"),
    ],
)
def test_bad_input(
    argv: list[str], options: list[str], message: str, threads: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(arms, "warm_up", lambda *_: pytest.fail("work has started"))
    assert command.main([*argv, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err


def test_one_checkpoint_named_twice(argv: list[str], threads: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*argv, "--retrained", argv[3]]) == 2
    assert "four: named twice" in capsys.readouterr().err
