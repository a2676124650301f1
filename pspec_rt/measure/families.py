"""Drafters of different families side by side: what each accepts, what it costs, what it was trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..drafters.base import Drafter
from ..drafters.config import EAGLE, EAGLE1, LM, MEDUSA, MEDUSA_HEADS, PARD
from ..drafters.lookup import LOOKUP
from ..drafters.registry import checkpoint_of
from ..errors import ConfigError
from ..models.target import Target
from .arms import SHAPES, ArmReport, Asked, ask_arms, lines_of, load_named
from .plot import Bars
from .run import PLAIN, OnQuestion

# A parallel family and the one it descends from, which drafts token by token, or each depth on its own.
PAIRS = ((EAGLE, EAGLE1), (MEDUSA, MEDUSA_HEADS), (PARD, LM))
TRAINING_LOG = "log.jsonl"


@dataclass(frozen=True)
class FamiliesConfig:
    """What to compare: checkpoints, each as a chain and as a tree of `k` depths."""

    asked: Asked
    drafters: tuple[str, ...]
    k: int = 4

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k={self.k}: expected a whole number >= 1")


@dataclass(frozen=True)
class Entry:
    """One way to draft: `megabytes` of weights the drafter has (the target's own left out), `trained_*` what its
    training log says it saw (None: no log beside the checkpoint)."""

    drafter: str
    kind: str
    megabytes: float
    trained_seconds: float | None
    trained_anchors: int | None
    k: int
    shape: str


@dataclass
class Families(ArmReport):
    """What was measured; `pairs`: every parallel drafter over those of the family it descends from."""

    pairs: list[dict[str, Any]] = field(default_factory=list)


def compare_families(
    config: FamiliesConfig, target: Target, on_question: OnQuestion = lambda done, of: None
) -> Families:
    """All arms and plain decoding answer every question, taking turns; `on_question` as in `measure`.

    Raises PspecError subclasses for questions, drafters or depths that do not do; nothing is measured then.
    """
    drafters = load_named(config.drafters, target)
    arms = entries_of(config, target, drafters)
    meta, questions, skipped = ask_arms(config.asked, target, drafters, arms, on_question)
    lines = lines_of(arms, questions)
    return Families(meta, lines, questions, skipped, pairs_of(lines))


def entries_of(config: FamiliesConfig, target: Target, drafters: dict[str, Drafter]) -> list[Entry]:
    """Every drafter in every shape; raises ConfigError for one that does not draft so many depths."""
    entries = []
    for path, (name, drafter) in zip(config.drafters, drafters.items(), strict=True):
        if config.k > drafter.max_k:
            raise ConfigError(
                f"drafter {path} ({drafter.kind}) drafts at most {drafter.max_k} tokens, not k={config.k}: ask for "
                "fewer, or leave it out"
            )
        trained = {} if drafter.checkpoint() is None else _trained(checkpoint_of(path, target))
        about = (name, drafter.kind, drafter.nbytes / 1e6, trained.get("seconds"), trained.get("anchors"))
        entries += [Entry(*about, config.k, shape) for shape in SHAPES]
    return entries


def _trained(checkpoint: str) -> dict[str, Any]:
    """The last step in the training log of a checkpoint; {} without one."""
    log = Path(checkpoint.removesuffix(LOOKUP)) / TRAINING_LOG
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return next((row for row in reversed(rows) if "anchors" in row), {})


def pairs_of(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every parallel drafter over each of the family it descends from, shape by shape."""
    drafted = [line for line in lines if line["shape"] != PLAIN]
    return [
        {
            "drafter": own["drafter"],
            "over": elder["drafter"],
            "shape": own["shape"],
            "acceptance_length": [own["mean_acceptance_length"], elder["mean_acceptance_length"]],
            "speedup_over_plain": [own["speedup_over_plain"], elder["speedup_over_plain"]],
            "tokens_per_s_ratio": own["tokens_per_s"] / elder["tokens_per_s"],
        }
        for parallel, before in PAIRS
        for own in drafted if own["kind"] == parallel
        for elder in drafted if elder["kind"] == before and elder["shape"] == own["shape"]
    ]  # fmt: skip


def bars_of(report: Families) -> list[Bars]:
    """Tokens per round and speed-up of every drafter, a bar per shape."""
    titles = {"mean_acceptance_length": "tokens per round", "speedup_over_plain": "speed-up over plain decoding"}
    drafted = [line for line in report.lines if line["shape"] != PLAIN]
    names = list(dict.fromkeys(line["drafter"] for line in drafted))
    return [
        Bars(title, names, {s: [x[key] for x in drafted if x["shape"] == s] for s in SHAPES})
        for key, title in titles.items()
    ]
