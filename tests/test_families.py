"""Families side by side: who takes part, what their logs say, pairs by hand, the command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from bench import families as command
from pspec_rt.errors import ConfigError
from pspec_rt.measure.arms import Asked, load_named
from pspec_rt.measure.families import Entry, FamiliesConfig, entries_of, pairs_of
from tests.tiny import tiny_checkpoint, tiny_target
from tests.train.setups import drafter

QUESTION = {"question_id": 1, "category": "writing", "turns": ["hello there"]}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A question, a ParallelSpec-EAGLE drafter with the log of its training and an EAGLE-1 head without."""
    (tmp_path / "questions.jsonl").write_text(json.dumps(QUESTION))
    for name, family in (("parallel", "parallelspec-eagle"), ("sequential", "eagle")):
        drafter(family, k=3).save(tmp_path / name)
    rows = [
        {"step": 1, "anchors": 10, "seconds": 0.5},
        {"step": 2, "anchors": 20, "seconds": 1.5},
        {"step": 2, "eval": {}},
    ]
    (tmp_path / "parallel" / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_who_takes_part(files: Path) -> None:
    paths = (str(files / "parallel"), f"{files / 'parallel'}+ngram", str(files / "sequential"), "ngram")
    drafters = load_named(paths, tiny_target())
    found = entries_of(FamiliesConfig(Asked(""), paths, k=3), tiny_target(), drafters)
    assert [(x.drafter, x.kind, x.trained_anchors, x.trained_seconds, x.shape) for x in found[::2]] == [
        ("parallel", "parallelspec-eagle", 20, 1.5, "chain"),
        ("parallel+ngram", "parallelspec-eagle+ngram", 20, 1.5, "chain"),
        ("sequential", "eagle", None, None, "chain"),
        ("ngram", "ngram", None, None, "chain"),
    ]
    assert {x.shape for x in found[1::2]} == {"tree"} and found[0].megabytes == drafters["parallel"].nbytes / 1e6
    with pytest.raises(ConfigError, match=r"parallel \(parallelspec-eagle\) drafts at most 3 tokens, not k=4"):
        entries_of(FamiliesConfig(Asked(""), paths, k=4), tiny_target(), drafters)
    with pytest.raises(ConfigError, match="k=0"):
        FamiliesConfig(Asked(""), paths, k=0)


def test_pairs_by_hand() -> None:
    def line(drafter: str, kind: str, shape: str, accepted: float, speedup: float) -> dict[str, Any]:
        figures = {"mean_acceptance_length": accepted, "speedup_over_plain": speedup, "tokens_per_s": 10 * speedup}
        return vars(Entry(drafter, kind, 1.0, None, None, 4, shape)) | figures

    lines = [
        {"shape": "plain"},
        line("ours", "parallelspec-medusa", "chain", 1.6, 1.2),
        line("ours", "parallelspec-medusa", "tree", 2.0, 1.5),
        line("heads", "medusa", "tree", 1.8, 0.5),
        line("alone", "pard", "tree", 1.8, 0.5),
    ]
    assert pairs_of(lines) == [
        {
            "drafter": "ours", "over": "heads", "shape": "tree", "acceptance_length": [2.0, 1.8],
            "speedup_over_plain": [1.5, 0.5], "tokens_per_s_ratio": 3.0,
        }
    ]  # fmt: skip


def test_the_command_writes_table_json_and_plot(files: Path, threads: None, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "out.json"
    options = {"--questions": files / "questions.jsonl", "--target": tiny_checkpoint(), "--json": out}
    argv = [*(str(x) for pair in options.items() for x in pair), "--max-new-tokens", "6", "--threads", "1"]
    argv += ["--k", "3", "--nodes", "6", "--drafter", str(files / "parallel"), "--drafter", str(files / "sequential")]
    assert command.main(argv) == 0
    captured = capsys.readouterr()
    assert "parallel over sequential, tree:" in captured.out
    report = json.loads(out.read_text())
    assert [(x["drafter"], x["shape"]) for x in report["lines"]] == [
        (None, "plain"), ("parallel", "chain"), ("parallel", "tree"), ("sequential", "chain"), ("sequential", "tree")
    ]  # fmt: skip
    assert all(x["identical_tokens"] for x in report["lines"]) and len(report["pairs"]) == 2
    if importlib.util.find_spec("matplotlib") is not None:
        assert out.with_suffix(".svg").read_text().count("<svg") == 1
