"""The end-to-end measurement: question files, fairness of the loop, the figures, the files it writes."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pspec_rt import hub
from pspec_rt.cli import main
from pspec_rt.errors import ConfigError
from pspec_rt.generator import Generator
from pspec_rt.measure import BenchConfig, Report, bandwidth, measure, run
from pspec_rt.measure.contender import Answer
from pspec_rt.measure.meta import git_commit, versions
from pspec_rt.measure.peers import PeerSetup, make_peer, split_names
from pspec_rt.measure.plot import plot_speedups
from pspec_rt.measure.questions import Question, QuestionError, choose, load_questions
from pspec_rt.measure.summary import against_bandwidth, first_difference, row_of, summarise
from pspec_rt.ops._dispatch import native
from pspec_rt.result import Stats
from tests.tiny import tiny_checkpoint, tiny_target

ROWS = [
    {"question_id": 1, "category": "writing", "turns": ["hello there", "and hello moon"]},
    {"question_id": 2, "category": "qa", "turns": ["what is the answer"]},
    {"question_id": "three", "category": "humaneval", "task": "coding", "turns": ["ab ab ab ab ab"], "reference": []},
]


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading memory that exceeds the last-level cache takes seconds and gigabytes."""
    monkeypatch.setattr(bandwidth, "streaming_bytes", lambda: 4 << 20)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return file


def question(number: int, task: str) -> Question:
    return Question(number, task, task, ("hello",))


def test_question_files(questions: Path) -> None:
    loaded = load_questions(questions)
    assert [(q.question_id, q.task) for q in loaded] == [(1, "mt_bench"), (2, "qa"), ("three", "coding")]
    assert loaded[0].turns == ("hello there", "and hello moon")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"question_id": 1}', "line 2: `turns`"),
        ('{"question_id": 1, "turns": []}', "line 2: `turns`"),
        ('{"question_id": 1, "turns": [""]}', "line 2: `turns`"),
        ('{"turns": ["a"]}', "line 2: `question_id`"),
        ('{"question_id": 1, "turns": ["a"], "category": 3}', "line 2: `category`"),
    ],
)
def test_malformed_question_files_name_the_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    good = json.dumps(ROWS[0]) + "\n" if "line" in message else ""
    file.write_text(good + content)
    with pytest.raises(QuestionError, match=message):
        load_questions(file)
    with pytest.raises(QuestionError, match="missing.jsonl"):
        load_questions(tmp_path / "missing.jsonl")


def test_a_limit_takes_questions_evenly_from_the_tasks() -> None:
    many = [question(i, "a") for i in range(6)] + [question(i, "b") for i in range(6, 8)] + [question(8, "c")]
    assert [q.question_id for q in choose(many, limit=5)] == [0, 1, 6, 7, 8]
    assert [q.question_id for q in choose(many, limit=2)] == [0, 6]
    assert choose(many, limit=100) == choose(many) == many
    assert [q.question_id for q in choose(many, tasks=("b", "c"), limit=2)] == [6, 8]
    with pytest.raises(ConfigError, match="unknown task 'd'.*a, b, c"):
        choose(many, tasks=("a", "d"))
    with pytest.raises(ConfigError, match="limit=0"):
        choose(many, limit=0)


def test_first_difference() -> None:
    assert first_difference([[1, 2], [3]], [[1, 2], [3]]) is None
    assert first_difference([[1, 2], [3]], [[1, 2], [4]]) == [1, 0]
    assert first_difference([[1, 2], [3]], [[1, 2, 9], [3]]) == [0, 2]


def answer(token_ids: list[int], seconds: float, rounds: int | None = None) -> Answer:
    if rounds is None:
        return Answer(token_ids, seconds)
    accepted = len(token_ids) - rounds
    stats = Stats(5, len(token_ids), rounds, 2 * rounds, accepted, [accepted, 0], verify_s=seconds / 2)
    return Answer(token_ids, seconds, stats=stats)


def test_figures() -> None:
    first = {"plain": answer([1, 2, 3, 4], 4, 4), "speculative": answer([1, 2, 3, 4], 2, 2), "peer": answer([1, 2], 4)}
    second = {"plain": answer([5, 6], 2, 2), "speculative": answer([5, 6], 1, 1), "peer": answer([5, 6], 4)}
    rows = [row_of(question(i, "a"), 5, [turn]) for i, turn in enumerate((first, second))]
    assert rows[0]["first_difference"] == {"speculative": None, "peer": [0, 2]}
    figures = summarise(rows)
    assert figures["plain_tokens_per_s"] == 1 and figures["speculative_tokens_per_s"] == 2
    assert figures["peer_tokens_per_s"] == 0.5 and figures["peer_new_tokens"] == 4
    assert figures["plain_decode_tokens_per_s"] == 2
    assert figures["speedup_over_plain"] == figures["speedup_over_plain_median"] == 2
    assert (figures["plain_over_peer"], figures["speculative_over_peer"]) == (2, 4)
    assert figures["plain_over_peer_median"] == 2 and figures["speculative_over_peer_median"] == 4
    assert figures["mean_acceptance_length"] == 2 and figures["acceptance_per_position"] == [1, 0]
    assert figures["identical_tokens"] and figures["identical_to_peer"] == 1
    assert against_bandwidth(figures, gbs=10.0, weight_bytes=10**9) == {
        "read_bandwidth_gbs": 10.0,
        "plain_bandwidth_fraction": 0.2,
    }
    second["speculative"] = answer([5, 7], 1, 1)
    assert not summarise([row_of(question(0, "a"), 5, [second])])["identical_tokens"]


class Recorder:
    """A contender that writes down what it was asked, and always answers the same."""

    def __init__(self, name: str, log: list[tuple[str, list[int]]]) -> None:
        self.name, self._log = name, log

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        self._log.append((self.name, prompt_ids))
        return Answer([7, 8], 1.0, text=f"said by {self.name}", stats=Stats(rounds=1, new_tokens=2))


def test_everybody_continues_the_same_ids_and_takes_turns_in_going_first(
    questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, list[int]]] = []
    names = ["plain", "speculative", "peer"]
    generator = Generator(tiny_target(), "ngram")
    monkeypatch.setattr(run, "_contenders", lambda config: ([Recorder(name, log) for name in names], generator))
    report = measure(BenchConfig(questions, "unused"))
    asked = [log[i : i + 3] for i in range(3, len(log), 3)]  # behind the warm-up
    assert [[name for name, _ in turn] for turn in asked] == [
        ["plain", "speculative", "peer"],
        ["plain", "speculative", "peer"],  # second turn of question 1
        ["speculative", "peer", "plain"],
        ["peer", "plain", "speculative"],
    ]
    assert all(ids == turn[0][1] for turn in asked for _, ids in turn)
    assert "said by plain" in generator.tokenizer.decode(asked[1][0][1])
    assert report.questions[0]["contenders"]["peer"]["new_tokens"] == 4


def config_of(questions: Path, **options: Any) -> BenchConfig:
    return BenchConfig(questions, tiny_checkpoint(), "ngram", max_new_tokens=8, **options)


def test_measure_on_a_tiny_model(questions: Path, threads: None) -> None:
    done: list[tuple[int, int]] = []
    report = measure(config_of(questions, threads=1), lambda *progress: done.append(progress))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert set(report.tasks) == {"mt_bench", "qa", "coding"}
    summary = report.summary
    assert summary["questions"] == 3 and summary["identical_tokens"] and summary["identical_to_speculative"] == 3
    assert summary["plain_new_tokens"] == summary["speculative_new_tokens"] > 0
    assert summary["mean_acceptance_length"] >= 1 and len(summary["acceptance_per_position"]) == 7
    assert not any("transformers" in key for key in summary)
    meta = report.meta
    assert (meta["threads"], meta["dtype"], meta["drafter"], meta["tree"]) == (1, "float32", "ngram", "chain(7)")
    if native.available:
        assert summary["read_bandwidth_gbs"] == meta["read_bandwidth"]["gbs"] > 0
        assert meta["read_bandwidth"] | {"gbs": 0, "last_level_cache_bytes": 0} == {
            "gbs": 0,
            "threads": 1,
            "buffer_bytes": 4 << 20,
            "last_level_cache_bytes": 0,
        }
        weights_gbs = meta["weight_bytes"] * summary["plain_decode_tokens_per_s"] / 1e9
        assert summary["plain_bandwidth_fraction"] == pytest.approx(weights_gbs / summary["read_bandwidth_gbs"])


def test_plain_decoding_alone(questions: Path, threads: None) -> None:
    config = BenchConfig(questions, tiny_checkpoint(), "none", max_new_tokens=4, limit=1)
    report = measure(config)
    assert set(report.questions[0]["contenders"]) == {"plain"} and "speedup_over_plain" not in report.summary


@pytest.mark.usefixtures("threads")
def test_int8_is_named_and_counted_in_its_own_bytes(questions: Path) -> None:
    sizes = {}
    for dtype in ("bf16", "int8"):
        report = measure(BenchConfig(questions, tiny_checkpoint(), "none", max_new_tokens=4, limit=1, dtype=dtype))
        sizes[report.meta["dtype"]] = report.meta.get("weight_bytes", 0)
    assert set(sizes) == {"bfloat16", "int8"} and (not native.available or sizes["int8"] < 0.7 * sizes["bfloat16"])


def test_questions_that_do_not_fit_are_left_out(questions: Path, threads: None) -> None:
    with questions.open("a") as file:
        file.write(json.dumps({"question_id": 4, "category": "qa", "turns": ["x" * 600]}))
    report = measure(config_of(questions, tasks=("qa",)))
    assert report.summary["questions"] == 1
    assert [skipped["question_id"] for skipped in report.skipped] == [4]
    assert "exceed the capacity" in report.skipped[0]["reason"]


def test_the_command_writes_json_and_plot_and_agrees_with_transformers(
    questions: Path, tmp_path: Path, threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    argv = ["bench", "--target", str(tiny_checkpoint()), "--drafter", "ngram", "--questions", str(questions)]
    argv += ["--max-new-tokens", "8", "--limit", "2", "--peers", "transformers,transformers-assisted"]
    assert main([*argv, "--threads", "1", "--json", str(out)]) == 0
    captured = capsys.readouterr()
    assert "mt_bench" in captured.out and "overall" in captured.out and "in 2 of 2" in captured.out
    report = json.loads(out.read_text())
    assert set(report) == {"meta", "questions", "skipped", "tasks", "summary"}
    assert {"date", "command", "commit", "versions", "cpu", "threads", "dtype"} <= set(report["meta"])
    assert {
        "plain_tokens_per_s",
        "speculative_tokens_per_s",
        "speedup_over_plain",
        "plain_over_transformers",
        "speculative_over_transformers",
        "speculative_over_transformers_assisted",
        "mean_acceptance_length",
        "identical_tokens",
    } <= set(report["summary"])
    assert report["meta"]["peers"] == ["transformers", "transformers-assisted"]
    assert report["summary"]["identical_to_transformers"] == 2  # fp32 on both sides: no near-ties here
    assert report["summary"]["identical_to_transformers_assisted"] == 2
    assert not any("llama" in key for key in report["summary"])
    if importlib.util.find_spec("matplotlib") is None:
        assert "matplotlib is not installed" in captured.err
    else:
        assert out.with_suffix(".svg").read_text().count("<svg") == 1


def test_a_difference_is_exit_code_1(
    questions: Path, threads: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, list[int]]] = []
    other = Recorder("speculative", log)
    monkeypatch.setattr(other, "answer", lambda ids, count: Answer([7, 9], 1.0, stats=Stats(rounds=1)))
    contenders = ([Recorder("plain", log), other], Generator(tiny_target(), "ngram"))
    monkeypatch.setattr(run, "_contenders", lambda config: contenders)
    assert main(["bench", "--questions", str(questions)]) == 1
    assert "differs from plain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--questions", "/no/such/file.jsonl"], "/no/such/file.jsonl"),
        (["--peers", "telepathy"], "unknown peer 'telepathy': choose from transformers, transformers-assisted, llama"),
        (["--peers", "transformers,telepathy"], "unknown peer 'telepathy'"),
        (["--peers", "transformers", "--temperature", "1"], "greedily"),
        (["--task", "juggling"], "unknown task 'juggling'"),
        (["--limit", "0"], "limit=0"),
        (["--threads", "0"], "threads=0"),
        (["--tree", "shrub"], "unknown tree"),
        (["--max-new-tokens", "0"], "max_new_tokens=0"),
        (["--json", "/no/such/folder/out.json"], "there is no folder"),
    ],
)
def test_bad_input(
    questions: Path, options: list[str], message: str, threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", "--target", str(tiny_checkpoint()), "--questions", str(questions), "--limit", "1"]
    assert main([*argv, *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err


def test_no_plot_without_ratios(tmp_path: Path) -> None:
    assert not plot_speedups(Report({}, summary={"plain_tokens_per_s": 1.0}), tmp_path / "plot.svg")
    assert not (tmp_path / "plot.svg").exists()


def test_conditions() -> None:
    assert {"pspec_rt", "python", "torch", "transformers"} <= set(versions())
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("+changes")) == 40


def test_names_of_peers() -> None:
    assert split_names([]) == split_names([""]) == ()
    assert split_names(["a,b", "c", " a ,"]) == ("a", "b", "c")


def test_a_peer_that_is_not_installed(
    questions: Path, threads: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llama_cpp" else find_spec(name))
    assert main(["bench", "--questions", str(questions), "--peers", "transformers,llama.cpp"]) == 2
    assert "peer 'llama.cpp' is not installed; run: pip install llama-cpp-python" in capsys.readouterr().err


class FakeLlama:
    """`llama_cpp.Llama` as far as the peer uses it: counts on from the last prompt token, forever."""

    made: list[FakeLlama] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.resets = options, 0
        self.made.append(self)

    def reset(self) -> None:
        self.resets += 1

    def generate(self, tokens: list[int], *, temp: float, repeat_penalty: float) -> Any:
        assert temp == 0.0 and repeat_penalty == 1.0, "greedy"
        token = tokens[-1]
        while True:
            token += 1
            yield token


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[FakeLlama]:
    """A llama-cpp-python that is "installed", and a cache in which the demo files are "there"."""
    module = ModuleType("llama_cpp")
    module.__spec__ = ModuleSpec("llama_cpp", None)
    module.Llama = FakeLlama  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setattr(FakeLlama, "made", [])
    monkeypatch.setenv("PSPEC_CACHE", str(tmp_path / "cache"))
    hub.demo_folder().parent.mkdir(parents=True)
    hub.demo_folder().symlink_to(tiny_checkpoint())
    (hub.demo_folder().parent / hub.DEMO_GGUF).touch()
    return FakeLlama.made


def test_llama_cpp_stops_as_the_others_do(llama_cpp: list[FakeLlama]) -> None:
    setup = PeerSetup(hub.demo_folder(), torch.bfloat16, torch.device("cpu"), (5, 9), 3)
    peer = make_peer("llama.cpp", setup)
    assert peer.answer([1, 2], 8).token_ids == [3, 4, 5]  # the end token is counted
    assert peer.answer([1, 2], 2).token_ids == [3, 4]
    (llama,) = llama_cpp
    assert llama.resets == 2, "nothing of the last prompt is kept"
    options = {"model_path": str(hub.demo_gguf()), "n_threads": 3, "n_threads_batch": 3, "n_ctx": 0, "verbose": False}
    assert llama.options == options


def test_llama_cpp_takes_part_on_the_demo_model_only(
    questions: Path, threads: None, llama_cpp: list[FakeLlama], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", "--questions", str(questions), "--peers", "llama.cpp", "--max-new-tokens", "4", "--limit", "1"]
    other = str(tiny_checkpoint("Qwen2ForCausalLM"))
    assert main([*argv, "--target", other]) == 2
    assert "runs the demo model's GGUF file, not" in capsys.readouterr().err
    assert main(argv) == 0
    report = measure(BenchConfig(questions, max_new_tokens=4, limit=1, peers=("llama.cpp",)))
    assert {"speculative_over_llama_cpp_4bit", "plain_over_llama_cpp_4bit"} <= set(report.summary)


def test_no_read_bandwidth_without_native_kernels(
    questions: Path, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "read_bandwidth", lambda: None)
    report = measure(config_of(questions, limit=1))
    assert not any("bandwidth" in key for key in (*report.summary, *report.meta))
