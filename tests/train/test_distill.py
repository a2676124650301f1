"""Distillation: rows depend on nothing but target, prompt and sampling; runs stop and go on; errors come first."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pspec_rt.cli import main
from pspec_rt.engine import Engine
from pspec_rt.errors import ConfigError, PspecError
from pspec_rt.generator import Generator
from pspec_rt.models import Target, load_target
from pspec_rt.train.answers import AnswerError, AnswerFile
from pspec_rt.train.distill import DistillConfig, DistillReport, distill
from pspec_rt.train.fingerprint import fingerprint
from pspec_rt.train.prompts import PromptError, load_prompts
from tests.test_cli import interrupt_at
from tests.tiny import copy_checkpoint, edit_json, tiny_checkpoint, tiny_target

Row = dict[str, Any]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
PROMPTS: list[Row] = [
    {"id": "a", "kind": "math", "source": "s1", "licence": "MIT", "prompt": "hello there"},
    {"id": "b", "kind": "chat", "messages": CHAT},
    {"kind": "math", "text": "The quick brown fox jumps over"},
    {"id": 7, "prompt": "What is the answer?"},
    {"id": "again", "kind": "math", "prompt": "  hello \n there "},
    {"id": "e", "kind": "chat", "prompt": "one table, three chairs, another window " * 3},
]  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


@pytest.fixture
def config(tmp_path: Path) -> DistillConfig:
    """Answers of up to 12 tokens, greedy and sampled twice, two sequences at a time."""
    prompts = write(tmp_path / "prompts.jsonl", PROMPTS)
    return DistillConfig(
        prompts, tmp_path / "out.jsonl", max_new_tokens=12, temperatures=(0.0, 0.8), samples=2, max_batch=2
    )


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_by_key(path: Path) -> dict[tuple[str, int], Row]:
    return {(row["id"], row["seed"]): row for row in read(path)}


def test_rows_carry_what_training_needs(target: Target, config: DistillConfig) -> None:
    report = distill(config, target)
    rows = read(config.out)
    assert len(rows) == 5 * 3 == report.rows.total() and report.skipped["repeated"] == 1
    assert set(rows[0]) == {
        "id", "kind", "source", "licence", "prompt_ids", "answer_ids", "temperature", "seed", "finish_reason",
    }  # fmt: skip
    assert {row["id"] for row in rows} == {"a", "b", "line-3", "7", "e"}
    labels = {row["id"]: (row["kind"], row["source"], row["licence"]) for row in rows}
    assert labels["a"] == ("math", "s1", "MIT") and labels["7"] == ("", "", "")
    for row in rows:
        ended = row["finish_reason"] == "stop"
        assert ended == (row["answer_ids"][-1] in target.eos_ids) and (ended or len(row["answer_ids"]) == 12)
    assert report.new_tokens == report.tokens.total() == sum(len(row["answer_ids"]) for row in rows)
    meta = json.loads(Path(f"{config.out}.meta.json").read_text())
    assert meta["fingerprint"] == fingerprint(target.path) and meta["counts"]["rows"] == dict(report.rows)


def test_answers_are_those_of_the_generator(target: Target, config: DistillConfig) -> None:
    distill(config, target)
    generator = Generator(target, None, max_length=200)
    greedy = {row["id"]: row for row in read(config.out) if row["temperature"] == 0}
    for name, prompt in {"b": CHAT, "line-3": PROMPTS[2]["text"]}.items():
        assert greedy[name]["prompt_ids"] == generator.encode(prompt)
        assert greedy[name]["answer_ids"] == generator.generate(prompt, max_new_tokens=12, temperature=0).token_ids


@pytest.mark.parametrize("change", [{"max_batch": 1}, {"max_batch": 64}, {"shuffle_seed": 3}])
def test_a_row_depends_on_neither_batch_nor_order(
    target: Target, config: DistillConfig, change: dict[str, Any]
) -> None:
    distill(config, target)
    other = replace(config, out=config.out.with_name("other.jsonl"), **change)
    distill(other, target)
    assert rows_by_key(config.out) == rows_by_key(other.out)


def test_samples_differ_and_follow_the_seed(target: Target, config: DistillConfig) -> None:
    distill(config, target)
    sampled = [tuple(row["answer_ids"]) for row in read(config.out) if row["id"] == "a"]
    assert len(set(sampled)) == 3
    other = replace(config, out=config.out.with_name("other.jsonl"), seed=1)
    distill(other, target)
    again = {tuple(row["answer_ids"]) for row in read(other.out) if row["id"] == "a"}
    assert sampled[0] in again and len(again | set(sampled)) == 5, "the greedy answer alone stays"


def test_a_limited_shuffled_run_grows(target: Target, config: DistillConfig) -> None:
    config = replace(config, shuffle_seed=1, temperatures=(0.0,))
    distill(replace(config, limit=2), target)
    first = read(config.out)
    report = distill(config, target)
    rows = read(config.out)
    assert len(first) == 2 == report.rows_before and rows[:2] == first and len(rows) == 5 == report.rows.total()
    assert {row["id"] for row in first} != {"a", "b"}, "the first two of the file"


@pytest.mark.parametrize("torn", ["", '{"id": "a", "see'])
def test_a_stopped_run_goes_on(
    target: Target, config: DistillConfig, torn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(config, out=config.out.with_name("whole.jsonl"))
    distill(whole, target)
    with monkeypatch.context() as patch:
        interrupt_at(30, patch)
        stopped = distill(config, target)
    rows = read(config.out)
    assert stopped.interrupted and 0 < len(rows) == stopped.rows.total() < 15
    with config.out.open("a") as file:
        file.write(torn)
    report = distill(config, target)
    assert report.rows_before == len(rows) and not report.interrupted
    assert read(config.out)[: len(rows)] == rows and len(read(config.out)) == 15
    assert rows_by_key(config.out) == rows_by_key(whole.out) and report.rows.total() == 15


def test_nothing_left_to_do(target: Target, config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = distill(config, target)
    content = config.out.read_bytes()
    interrupt_at(1, monkeypatch)
    report = distill(config, target)
    assert config.out.read_bytes() == content and report.rows == before.rows and report.new_tokens == 0


def test_a_full_disk_leaves_whole_rows(target: Target, config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A file on a disk with room for three rows and a half."""

        def __init__(self, file: Any) -> None:
            self._file, self._room = file, 3

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, line: bytes) -> int:
            self._room -= 1
            if self._room < -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(line if self._room >= 0 else line[: len(line) // 2])

    enter = AnswerFile.__enter__

    def enter_full(self: AnswerFile) -> AnswerFile:
        enter(self)
        self._file = Full(self._file)
        return self

    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, "__enter__", enter_full)
        with pytest.raises(AnswerError, match="no space left; its 3 rows are whole"):
            distill(config, target)
    assert len(read(config.out)) == 3 and config.out.read_text().endswith("\n")
    assert distill(config, target).rows_before == 3 and len(read(config.out)) == 15


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 11}, {"temperatures": (0.0,)}, {"samples": 1}, {"seed": 1}, {"kinds": ("math",)}]
)
def test_other_settings_are_refused(target: Target, config: DistillConfig, change: dict[str, Any]) -> None:
    distill(config, target)
    content = config.out.read_bytes()
    with pytest.raises(AnswerError, match=f"was written with {next(iter(change))} = "):
        distill(replace(config, **change), target)
    assert config.out.read_bytes() == content


def test_another_target_or_prompt_file_is_refused(target: Target, config: DistillConfig, tmp_path: Path) -> None:
    distill(config, target)
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "generation_config.json", eos_token_id=5)
    with pytest.raises(AnswerError, match="fingerprint"):
        distill(config, replace(load_target(folder), path=folder.rename(tmp_path / target.path.name)))
    write(config.prompts, PROMPTS[:2])
    with pytest.raises(AnswerError, match="prompts_sha256"):
        distill(config, target)


def test_a_file_of_somebody_else_is_refused(target: Target, config: DistillConfig) -> None:
    config.out.write_text("mine\n")
    with pytest.raises(AnswerError, match="without a readable out.jsonl.meta.json"):
        distill(config, target)
    assert config.out.read_text() == "mine\n"


def test_two_runs_on_one_file(target: Target, config: DistillConfig) -> None:
    with AnswerFile(config.out, {}), pytest.raises(AnswerError, match="another process"):
        distill(config, target)


def test_damaged_rows_are_named(target: Target, config: DistillConfig) -> None:
    distill(config, target)
    lines = config.out.read_text().splitlines(keepends=True)
    config.out.write_text("".join([lines[0], "{}\n", *lines[1:]]))
    with pytest.raises(AnswerError, match="line 2: not a row"):
        distill(config, target)
    config.out.write_text("".join(lines))
    assert distill(config, target).rows_before == 15, "the lock is free again"


def test_kinds_and_long_prompts(target: Target, config: DistillConfig) -> None:
    report = distill(replace(config, kinds=("chat",), max_prompt_tokens=45, temperatures=(0.0,)), target)
    assert [row["id"] for row in read(config.out)] == ["b"]
    assert report.skipped["longer than 45 tokens"] == 1


def test_repeated_prompts_are_answered_twice_if_asked(target: Target, config: DistillConfig) -> None:
    report = distill(replace(config, dedupe=False, temperatures=(0.0,)), target)
    assert report.rows.total() == 6 and not report.skipped["repeated"]


def test_nan_answers_are_left_out(target: Target, config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    step: Callable[[Engine], Any] = Engine.step

    def broken(self: Engine) -> Any:
        outputs = step(self)
        for output in outputs:
            output.finish_reason = "error"
        return outputs

    monkeypatch.setattr(Engine, "step", broken)
    report: DistillReport = distill(config, target)
    assert report.skipped["NaN logits"] == 15 and not report.rows and config.out.read_text() == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, got list"),
        ('{"id": 1}', "found none"),
        ('{"prompt": "a", "text": "b"}', "found prompt and text"),
        ('{"prompt": " "}', "`prompt` must be a non-empty text"),
        ('{"text": 3}', "`text` must be a non-empty text"),
        ('{"messages": []}', "`messages` must be a list"),
        ('{"messages": [{"role": "user"}]}', "`messages` must be a list"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "is the assistant's"),
        ('{"prompt": "a", "kind": 3}', "`kind`, `source` and `licence` must be texts"),
        ('{"prompt": "a", "id": []}', "`id` must be"),
    ],
)
def test_malformed_prompts_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n\n' + line + "\n")
    with pytest.raises(PromptError, match="line 3: ") as caught:
        load_prompts(file)
    assert message in str(caught.value)


def test_a_role_the_template_refuses_is_named(target: Target, config: DistillConfig) -> None:
    write(config.prompts, [{"prompt": "a"}, {"messages": [{"role": "tool", "content": "b"}]}])
    with pytest.raises(PromptError, match="line 2: the chat template refuses"):
        distill(config, target)


def test_a_target_without_chat_template_or_tokenizer(config: DistillConfig, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "tokenizer_config.json", chat_template=...)
    with pytest.raises(PromptError, match="line 1: .*no chat template: give raw prompts as `text`"):
        distill(config, load_target(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(PspecError, match="no usable tokenizer"):
        distill(config, load_target(folder))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples=0"),
        ({"limit": 0}, "limit=0"),
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (0.5, 0.5)}, "each once"),
        ({"temperatures": (-1.0,)}, "temperature=-1"),
        ({"kinds": ("poetry",)}, "unknown kind 'poetry': the prompt file has math, chat"),
        ({"max_new_tokens": 512}, "no room for a prompt"),
        ({"max_prompt_tokens": 1}, "no prompt has at most 1 tokens"),
    ],
)
def test_bad_settings(target: Target, config: DistillConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, PspecError)) as caught:
        distill(replace(config, **change), target)
    assert message in str(caught.value) and not config.out.exists()


# -- the command -------------------------------------------------------------------------------------------------------


def command(config: DistillConfig, *options: str) -> int:
    base = ["distill", str(config.prompts), "--target", str(tiny_checkpoint()), "--out", str(config.out)]
    return main([*base, "--max-new-tokens", "8", *options])


def test_the_command_writes_and_reports(config: DistillConfig, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--temperature", "0,0.8", "--kinds", "math,chat", "--max-batch", "3", "--shuffle-seed", "0")
    assert command(config, *options) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and len(read(config.out)) == 8
    assert "8 rows written, 0 found" in captured.out and "left out: 1 repeated" in captured.out
    assert command(config, *options) == 0
    assert "0 rows written, 8 found" in capsys.readouterr().out


def test_the_command_stops_at_ctrl_c(
    config: DistillConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(12, monkeypatch)
    assert command(config, "--max-batch", "1") == 130
    assert "interrupted: run the same command again to go on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "warm"], "--temperature 'warm': expected numbers"),
        (["--temperature", "-1"], "temperature=-1"),
        (["--samples", "0"], "samples=0"),
        (["--out", "/no/such/folder/out.jsonl"], "there is no folder /no/such/folder"),
        (["--target", "/no/such/model"], "/no/such/model"),
        (["--kinds", "poetry"], "unknown kind 'poetry'"),
    ],
)
def test_the_command_refuses_in_one_line(
    config: DistillConfig, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(config, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_missing_and_empty_prompt_files(config: DistillConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config.prompts.write_text("\n")
    assert command(config) == 2
    assert "is empty" in capsys.readouterr().err
    config.prompts.unlink()
    assert command(config) == 2
    assert "No such file" in capsys.readouterr().err
