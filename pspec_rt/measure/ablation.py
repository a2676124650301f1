"""How many depths to draft: one drafter cut to every K, as chain and as tree, beside drafters trained for fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
from .plot import Curve, Panel
from .questions import choose, load_questions
from .run import PLAIN, OnQuestion, ask_all, room, warm_up
from .summary import Row, drafting, summarise

CHAIN, TREE = "chain", "tree"


@dataclass(frozen=True)
class AblationConfig:
    """What to compare.

    Attributes:
        drafter, retrained: checkpoints; the first runs at every K of `ks`, each of the others at the K it was trained
            for, which joins `ks`.
        nodes: of the best-first tree, the root included.
    """

    questions: str | Path
    drafter: str | Path
    retrained: tuple[str, ...] = ()
    ks: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    nodes: int = 16
    limit: int | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    loop: str = "auto"

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"k={','.join(map(str, self.ks))}: expected whole numbers >= 1, each once")
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens={self.max_new_tokens}: expected a whole number >= 1")


@dataclass(frozen=True)
class Arm:
    """One way to draft. `trained_k`: the depths its drafter was trained for, or drafts unless told otherwise."""

    drafter: str
    trained_k: int
    retrained: bool
    k: int
    shape: str

    @property
    def name(self) -> str:
        return f"{self.drafter} k={self.k} {self.shape}"


@dataclass
class Ablation:
    """`meta` (conditions), `lines` (plain first, then a line per arm), `checks` (cut beside retrained), `questions`."""

    meta: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    questions: list[Row] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def different(self) -> list[str]:
        """Arms whose ids were not plain decoding's."""
        return [f"{x['drafter']} k={x['k']} {x['shape']}" for x in self.lines if not x["identical_tokens"]]


def ablate(config: AblationConfig, target: Target, on_question: OnQuestion = lambda done, of: None) -> Ablation:
    """All arms and plain decoding answer every question, taking turns; `on_question` as in `measure`.

    Raises PspecError subclasses for questions, drafters or depths that do not do; nothing is measured then.
    """
    questions = choose(load_questions(config.questions), limit=config.limit)
    drafters = _load(config, target)
    arms = {arm: drafters[arm.drafter] for arm in arms_of(config, drafters)}
    options: dict[str, Any] = {
        "loop": config.loop, "max_batch": 1, "max_length": room(questions, target, config.max_new_tokens)
    }  # fmt: skip
    plain = Generator(target, None, **options)
    contenders: list[Contender] = [PspecContender(PLAIN, plain, config.temperature, config.seed)]
    for arm, drafter in arms.items():
        tree = TreeSpec.chain(arm.k) if arm.shape == CHAIN else TreeSpec.best_first(arm.k, config.nodes)
        generator = Generator(target, drafter, k=arm.k, tree=tree, **options)
        contenders.append(PspecContender(arm.name, generator, config.temperature, config.seed))
    asked = {name: getattr(config, name) for name in ("nodes", "temperature", "seed", "loop", "max_new_tokens")}
    kinds = {name: drafter.kind for name, drafter in drafters.items()}
    report = Ablation(conditions() | of_target(target, torch.get_num_threads()) | {"drafters": kinds} | asked)
    warm_up(contenders, plain, questions[0])
    report.questions, report.skipped = ask_all(questions, contenders, plain, config.max_new_tokens, on_question)
    report.lines = lines_of(list(arms), report.questions)
    report.checks = checks_of(report.lines)
    return report


def _load(config: AblationConfig, target: Target) -> dict[str, Drafter]:
    """The drafters by name, the one that is cut first."""
    paths = [config.drafter, *config.retrained]
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


def arms_of(config: AblationConfig, drafters: dict[str, Drafter]) -> list[Arm]:
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
        arms += [Arm(cut, drafter.default_k, False, k, shape) for shape in (CHAIN, TREE)]
        arms += [Arm(n, k, True, k, shape) for n, other in others if other.default_k == k for shape in (CHAIN, TREE)]
    return arms


def lines_of(arms: Sequence[Arm], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The figures of plain decoding and of every arm."""
    figures = summarise(rows)

    def speeds(name: str) -> dict[str, Any]:
        keys = ("tokens_per_s", "median_tokens_per_s", "decode_tokens_per_s")
        return {key: figures[f"{name}_{key}"] for key in keys}

    nobody: dict[str, Any] = dict.fromkeys(("drafter", "trained_k"))
    plain = nobody | {"retrained": False, "k": 0, "shape": PLAIN, "identical_tokens": True} | speeds(PLAIN)
    none_drafted: dict[str, Any] = {"mean_acceptance_length": 1.0, "acceptance_per_position": []}
    none_drafted |= {"speedup_over_plain": 1.0, "speedup_over_plain_median": 1.0}
    return [
        plain | none_drafted,
        *(asdict(arm) | speeds(arm.name) | drafting(rows, figures, arm.name) for arm in arms),
    ]


def checks_of(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each retrained drafter beside the cut one of the same K and shape."""
    cut = {(line["k"], line["shape"]): line for line in lines if not line["retrained"]}
    checks = []
    for own in (line for line in lines if line["retrained"]):
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
        colour = (CHAIN, TREE).index(line["shape"]) + (2 if line["retrained"] else 0)
        found.setdefault(label, Curve(label, style, colour)).points.append((line["k"], line[key]))
    return list(found.values())
