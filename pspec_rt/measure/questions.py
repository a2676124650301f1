"""Question files in Spec-Bench's format: reading, checking, and a balanced choice of some of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PspecError

# Spec-Bench counts MT-bench's categories as one task; its other categories are tasks of their own.
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


class QuestionError(PspecError):
    """A question file is missing, empty or malformed; the message names the line."""


@dataclass(frozen=True)
class Question:
    """One question: the user's turns, in order."""

    question_id: int | str
    category: str
    task: str
    turns: tuple[str, ...]


def load_questions(path: str | Path) -> list[Question]:
    """Read a JSONL file: one object per line with `question_id`, `category`, `turns` and, if wanted, `task`.

    Raises QuestionError naming the file, the line and what is wrong with it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"question file {path}: {error}") from error
    questions = [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]
    if not questions:
        raise QuestionError(f"question file {path} is empty: expected one JSON object per line")
    return questions


def choose(questions: list[Question], tasks: Sequence[str] = (), limit: int | None = None) -> list[Question]:
    """The questions of these tasks (none named: all), at most `limit`, taken in turn from every task.

    Raises ConfigError for an unknown task or a limit below 1.
    """
    known = list(dict.fromkeys(question.task for question in questions))
    if unknown := [task for task in tasks if task not in known]:
        raise ConfigError(f"unknown task {unknown[0]!r}: the question file has {', '.join(known)}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit}: expected a whole number >= 1")
    wanted = [question for question in questions if not tasks or question.task in tasks]
    rank: dict[str, int] = dict.fromkeys(known, 0)
    order = []
    for position, question in enumerate(wanted):  # first of every task, then second of every task, ...
        order.append((rank[question.task], position))
        rank[question.task] += 1
    chosen = sorted(position for _, position in sorted(order)[:limit])
    return [wanted[position] for position in chosen]


def _parse(line: str, where: str) -> Question:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise QuestionError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise QuestionError(f"{where}: expected an object, got {type(row).__name__}")
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t for t in turns):
        raise QuestionError(f"{where}: `turns` must be a list of at least one non-empty text")
    if not isinstance(row.get("question_id"), (int, str)):
        raise QuestionError(f"{where}: `question_id` is missing")
    category = row.get("category", "all")
    task = row.get("task") or ("mt_bench" if category in MT_BENCH else category)
    if not isinstance(category, str) or not isinstance(task, str):
        raise QuestionError(f"{where}: `category` and `task` must be texts")
    return Question(row["question_id"], category, task, tuple(turns))
