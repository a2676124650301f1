"""From answers to numbers: one row per question, and the figures of a group of rows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from ..result import Stats
from .contender import Answer
from .questions import Question

Row = dict[str, Any]


def row_of(question: Question, prompt_tokens: int, turns: Sequence[dict[str, Answer]]) -> Row:
    """The row of one question: its turns added up per contender, and whose ids differ from the plain ones, where."""
    names = sorted(turns[0])
    ids = {name: [answers[name].token_ids for answers in turns] for name in names}
    return {
        "question_id": question.question_id,
        "category": question.category,
        "task": question.task,
        "turns": len(turns),
        "prompt_tokens": prompt_tokens,
        "contenders": {name: _totals([answers[name] for answers in turns]) for name in names},
        "first_difference": {name: first_difference(ids["plain"], ids[name]) for name in names if name != "plain"},
    }


def first_difference(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> list[int] | None:
    """[turn, token] at which two conversations' ids first differ (also by length); None if they are identical."""
    for turn, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            return [turn, same]
    return None


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of a group of rows.

    `X_tokens_per_s` = all new tokens over all time, prefill included; `X_median_tokens_per_s` = median over questions;
    `X_decode_tokens_per_s` leaves prefill out (ours only). Ratios compare `X_tokens_per_s`; with `_median` they are the
    median of the questions' own ratios. Who did not take part has no figures.
    """
    names = list(rows[0]["contenders"])
    figures: dict[str, Any] = {"questions": len(rows)}
    for name in names:
        figures |= _speed(name, [row["contenders"][name] for row in rows])
    for name in names:
        if name != "plain":
            figures[f"identical_to_{name}"] = sum(row["first_difference"][name] is None for row in rows)
    if "speculative" in names:
        figures |= drafting(rows, figures, "speculative")
    for peer in (name for name in names if name not in ("plain", "speculative")):
        for ours in ("plain", "speculative"):
            if ours in names:
                figures |= _compare(f"{ours}_over_{peer}", ours, peer, rows, figures)
    return figures


def against_bandwidth(figures: dict[str, Any], gbs: float, weight_bytes: int) -> dict[str, float]:
    """How close plain decoding, which reads all weights for every token, comes to only reading them."""
    weights_gbs = weight_bytes * figures["plain_decode_tokens_per_s"] / 1e9
    return {"read_bandwidth_gbs": gbs, "plain_bandwidth_fraction": _ratio(weights_gbs, gbs)}


def _totals(answers: Sequence[Answer]) -> Row:
    seconds, new_tokens = sum(a.seconds for a in answers), sum(len(a.token_ids) for a in answers)
    totals: Row = {"new_tokens": new_tokens, "seconds": seconds, "tokens_per_s": _ratio(new_tokens, seconds)}
    stats = Stats()
    for answer in answers:
        if answer.stats is None:
            return totals
        stats.add(answer.stats)
    return totals | {"stats": stats.to_dict()}


def _speed(name: str, totals: Sequence[Row]) -> dict[str, Any]:
    new_tokens = sum(t["new_tokens"] for t in totals)
    speed: dict[str, Any] = {
        f"{name}_new_tokens": new_tokens,
        f"{name}_tokens_per_s": _ratio(new_tokens, sum(t["seconds"] for t in totals)),
        f"{name}_median_tokens_per_s": median(t["tokens_per_s"] for t in totals),
    }
    if "stats" in totals[0]:
        decode_s = sum(t["stats"]["decode_s"] for t in totals)
        speed[f"{name}_decode_tokens_per_s"] = _ratio(new_tokens, decode_s)
    return speed


def drafting(rows: Sequence[Row], figures: dict[str, Any], name: str) -> dict[str, Any]:
    """What speculation brought a contender: speed-up, acceptance, and whether every token is the plain one."""
    stats = [row["contenders"][name]["stats"] for row in rows]
    rounds, accepted = sum(s["rounds"] for s in stats), sum(s["accepted"] for s in stats)
    per_position = [sum(counts) for counts in zip(*(s["accepted_per_position"] for s in stats), strict=True)]
    return _compare("speedup_over_plain", name, "plain", rows, figures) | {
        "mean_acceptance_length": 1 + _ratio(accepted, rounds),
        "acceptance_per_position": [_ratio(count, rounds) for count in per_position],
        "identical_tokens": figures[f"identical_to_{name}"] == len(rows),
    }


def _compare(key: str, a: str, b: str, rows: Sequence[Row], figures: dict[str, Any]) -> dict[str, float]:
    """a over b in tokens per second: of all questions together, and the median of the questions' own ratios."""
    own = (_ratio(*(row["contenders"][name]["tokens_per_s"] for name in (a, b))) for row in rows)
    return {key: _ratio(*(figures[f"{name}_tokens_per_s"] for name in (a, b))), f"{key}_median": median(own)}


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0
