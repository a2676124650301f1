"""What dropping saves is measured: rows as the shares say, the same texts for both, the command's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import drop_tokens as command
from tests.tiny import tiny_checkpoint
from tests.train.setups import texts, write_data


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    data = write_data(tmp_path / "answers.jsonl", texts(12))
    options = {"--data": data, "--target": tiny_checkpoint(), "--json": tmp_path / "out.json", "--k": "3"}
    return [*(str(x) for pair in options.items() for x in pair), "--batch", "400", "--steps", "2", "--threads", "1"]


def test_rows_fall_to_the_kept_shares(
    argv: list[str], tmp_path: Path, threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*argv, "--families", "parallelspec-eagle,pard", "--keep", "0.5"]) == 0
    assert "rows per anchor" in capsys.readouterr().out
    lines = json.loads((tmp_path / "out.json").read_text())["lines"]
    assert [(x["family"], x["keep"]) for x in lines] == [
        (family, keep) for family in ("parallelspec-eagle", "pard") for keep in (1, 0.5)
    ]
    for whole, dropped in (lines[:2], lines[2:]):
        # Prompt rows have no masks to lose: what is saved is counted over the masks of answers.
        assert 0.3 < 1 - dropped["rows_per_anchor_ratio"] < 0.6 and whole["rows_per_anchor_ratio"] == 1
        assert whole["rows_per_anchor"] > 3 and dropped["ms"] > 0
        assert {name: len(values) for name, values in dropped["samples"].items()} == dict.fromkeys(command.COLUMNS, 2)


def test_bad_input(argv: list[str], threads: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*argv, "--keep", "1"]) == 2
    assert "--keep 1.0" in capsys.readouterr().err
    assert command.main([*argv, "--families", "nobody"]) == 2
    assert "family 'nobody'" in capsys.readouterr().err
