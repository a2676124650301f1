"""The examples that need no model: what they make, and what they say of bad input."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "more_prompts.py"


def more_prompts(monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> None:
    few = ("--translation", "3", "--code", "3", "--out", str(out))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *few, *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_more_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more_prompts(monkeypatch, tmp_path / "more.jsonl", "--package", "json")
    rows = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["translation"] * 3 + ["code"] * 3


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.part", "json.no_such_part", "sys"])
def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(SystemExit, match=f"--package {name}: no package of that name is installed"):
        more_prompts(monkeypatch, tmp_path / "more.jsonl", "--package", name)
    assert not (tmp_path / "more.jsonl").exists()
