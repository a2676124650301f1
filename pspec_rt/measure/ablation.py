"""How many depths to draft: one drafter cut to every K, as chain and as tree, beside drafters trained for fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..drafters.base import Drafter
from ..errors import ConfigError
from ..models.target import Target
from .arms import SHAPES, ArmReport, Asked, ask_arms, lines_of, load_named
from .plot import Curve, Panel
from .run import PLAIN, OnQuestion


@dataclass(frozen=True)
class AblationConfig:
    """What to compare.

    Attributes:
        drafter, retrained: checkpoints; the first runs at every K of `ks`, each of the others at the K it was trained
            for, which joins `ks`.
    """

    asked: Asked
    drafter: str | Path
    retrained: tuple[str, ...] = ()
    ks: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"k={','.join(map(str, self.ks))}: expected whole numbers >= 1, each once")


@dataclass(frozen=True)
class Cut:
    """One way to draft. `trained_k`: the depths its drafter was trained for, or drafts unless told otherwise."""

    drafter: str
    trained_k: int
    retrained: bool
    k: int
    shape: str


@dataclass
class Ablation(ArmReport):
    """What was measured; `checks`: each retrained drafter beside the cut one."""

    checks: list[dict[str, Any]] = field(default_factory=list)


def ablate(config: AblationConfig, target: Target, on_question: OnQuestion = lambda done, of: None) -> Ablation:
    """All arms and plain decoding answer every question, taking turns; `on_question` as in `measure`.

    Raises PspecError subclasses for questions, drafters or depths that do not do; nothing is measured then.
    """
    drafters = load_named([config.drafter, *config.retrained], target)
    arms = arms_of(config, drafters)
    meta, questions, skipped = ask_arms(config.asked, target, drafters, arms, on_question)
    lines = lines_of(arms, questions)
    return Ablation(meta, lines, questions, skipped, checks_of(lines))


def arms_of(config: AblationConfig, drafters: dict[str, Drafter]) -> list[Cut]:
    """Every K of the cut drafter, with the retrained ones of that K behind it.

    Raises ConfigError for a K that a drafter cannot draft.
    """
    (cut, drafter), *others = drafters.items()
    ks = sorted({*config.ks, *(other.default_k for _, other in others)})
    if ks[-1] > drafter.max_k:
        raise ConfigError(
            f"drafter {config.drafter} ({drafter.kind}) drafts at most {drafter.max_k} tokens and cannot be cut to "
            f"k={ks[-1]}: ask for k up to {drafter.max_k}, or give a drafter trained for more"
        )
    arms = []
    for k in ks:
        arms += [Cut(cut, drafter.default_k, False, k, shape) for shape in SHAPES]
        arms += [Cut(n, k, True, k, shape) for n, other in others if other.default_k == k for shape in SHAPES]
    return arms


def checks_of(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each retrained drafter beside the cut one of the same K and shape."""
    cut = {(line["k"], line["shape"]): line for line in lines if not line.get("retrained")}
    checks = []
    for own in (line for line in lines if line.get("retrained")):
        other = cut[own["k"], own["shape"]]
        checks.append(
            {
                "drafter": own["drafter"],
                "k": own["k"],
                "shape": own["shape"],
                "acceptance_length_cut": other["mean_acceptance_length"],
                "acceptance_length_retrained": own["mean_acceptance_length"],
                "cut_over_retrained": other["tokens_per_s"] / own["tokens_per_s"],
            }
        )
    return checks


def panels_of(report: Ablation) -> list[Panel]:
    """Tokens per round and speed-up over K: curves of the drafter that is cut, points of the retrained ones."""
    titles = {"mean_acceptance_length": "tokens per round", "speedup_over_plain": "speed-up over plain decoding"}
    return [Panel(title, "K", _curves(report.lines, key)) for key, title in titles.items()]


def _curves(lines: Sequence[dict[str, Any]], key: str) -> list[Curve]:
    found: dict[str, Curve] = {}
    for line in lines:
        if line["shape"] == PLAIN:
            continue
        label = f"{line['drafter']} (K = {line['trained_k']}), {line['shape']}"
        style = "o" if line["retrained"] else "-o"
        colour = SHAPES.index(line["shape"]) + (2 if line["retrained"] else 0)
        found.setdefault(label, Curve(label, style, colour)).points.append((line["k"], line[key]))
    return list(found.values())
