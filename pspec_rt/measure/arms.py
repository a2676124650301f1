"""Several ways to draft side by side: plain decoding and every arm answer the same questions, taking turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ..drafters.base import Drafter
from ..drafters.registry import find_drafter
from ..errors import ConfigError, RequestError
from ..generator import Generator
from ..models.target import Target
from ..tree import TreeSpec
from .contender import Contender
from .meta import conditions, of_target
from .ours import PspecContender
from .questions import choose, load_questions
from .run import PLAIN, OnQuestion, ask_all, room, warm_up
from .summary import Row, drafting, summarise

CHAIN, TREE = "chain", "tree"
SHAPES = (CHAIN, TREE)


@dataclass(frozen=True)
class Asked:
    """What is asked of all arms, and how; `nodes`: of the best-first trees, the root included."""

    questions: str | Path
    nodes: int = 16
    limit: int | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    loop: str = "auto"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens={self.max_new_tokens}: expected a whole number >= 1")


class Arm(Protocol):
    """One way to draft, a dataclass; its fields stand in the results."""

    @property
    def drafter(self) -> str: ...  # its name

    @property
    def k(self) -> int: ...

    @property
    def shape(self) -> str: ...  # one of SHAPES


@dataclass
class ArmReport:
    """`meta` (conditions), `lines` (plain first, then one per arm), `questions` (a row each), what was left out."""

    meta: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)
    questions: list[Row] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def different(self) -> list[str]:
        """Arms whose ids were not plain decoding's."""
        return [f"{x['drafter']} k={x['k']} {x['shape']}" for x in self.lines if not x["identical_tokens"]]


def name_of(arm: Arm) -> str:
    """What an arm is called among the contenders."""
    return f"{arm.drafter} k={arm.k} {arm.shape}"


def load_named(paths: Sequence[str | Path], target: Target) -> dict[str, Drafter]:
    """Drafters by the names of their folders, or by their paths where two folders have one name.

    Raises ConfigError for a word that is no checkpoint, or is there twice.
    """
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    found: dict[str, Drafter] = {}
    for name, path in zip(names, paths, strict=True):
        drafter = find_drafter(path, target)
        if drafter is None or name in found:
            raise ConfigError(f"drafter {path}: " + ("named twice" if name in found else "expected a checkpoint"))
        found[name] = drafter
    return found


def ask_arms(
    asked: Asked, target: Target, drafters: dict[str, Drafter], arms: Sequence[Arm], on_question: OnQuestion
) -> tuple[dict[str, Any], list[Row], list[dict[str, Any]]]:
    """Plain decoding and the arms answer every question: (conditions, a row per question, what was left out).

    Raises PspecError subclasses for questions, trees or lengths that do not do; nothing is measured then.
    """
    questions = choose(load_questions(asked.questions), limit=asked.limit)
    options: dict[str, Any] = {
        "loop": asked.loop, "max_batch": 1, "max_length": room(questions, target, asked.max_new_tokens)
    }  # fmt: skip
    plain = Generator(target, None, **options)
    contenders: list[Contender] = [PspecContender(PLAIN, plain, asked.temperature, asked.seed)]
    for arm in arms:
        tree = TreeSpec.chain(arm.k) if arm.shape == CHAIN else TreeSpec.best_first(arm.k, asked.nodes)
        generator = Generator(target, drafters[arm.drafter], k=arm.k, tree=tree, **options)
        contenders.append(PspecContender(name_of(arm), generator, asked.temperature, asked.seed))
    kept = ("nodes", "temperature", "seed", "loop", "max_new_tokens")
    meta = conditions() | of_target(target, torch.get_num_threads()) | {name: getattr(asked, name) for name in kept}
    meta["drafters"] = {name: drafter.kind for name, drafter in drafters.items()}
    warm_up(contenders, plain, questions[0])
    return meta, *ask_all(questions, contenders, plain, asked.max_new_tokens, on_question)


def lines_of(arms: Sequence[Arm], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The figures of plain decoding, then of every arm behind its own fields."""
    figures = summarise(rows)

    def speeds(name: str) -> dict[str, Any]:
        keys = ("tokens_per_s", "median_tokens_per_s", "decode_tokens_per_s")
        return {key: figures[f"{name}_{key}"] for key in keys}

    plain = {
        "drafter": None, "k": 0, "shape": PLAIN, "identical_tokens": True, **speeds(PLAIN),
        "mean_acceptance_length": 1.0, "acceptance_per_position": [],
        "speedup_over_plain": 1.0, "speedup_over_plain_median": 1.0,
    }  # fmt: skip
    lines = [vars(arm) | speeds(name_of(arm)) | drafting(rows, figures, name_of(arm)) for arm in arms]
    return [plain, *lines]
