"""How closely a drafter follows its target: their distributions at every token of the target's answers, by depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..drafters.registry import find_drafter
from ..errors import ConfigError, RequestError
from ..generator import Generator
from ..models.target import Target
from ..quantize import Weight
from ..sampling import SamplingParams
from ..train.batch import collate
from ..train.data import Text
from ..train.families import Trainee
from ..train.features import Reader
from ..train.loaded import trainee_of
from .meta import conditions, of_target
from .plot import Curve, Panel
from .questions import choose, load_questions
from .run import OnQuestion, room
from .tally import Tally, compare
from .writer import Writer

OVERALL = "overall"
ANSWERED_TOGETHER = 8


@dataclass(frozen=True)
class AlignmentConfig:
    """What to compare; the drafter is a checkpoint."""

    questions: str | Path
    drafter: str | Path
    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0)
    limit: int | None = None
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens={self.max_new_tokens}: expected a whole number >= 1")
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ConfigError(f"temperatures={self.temperatures}: expected at least one, each once")
        for temperature in self.temperatures:
            SamplingParams(self.max_new_tokens, temperature)  # refuses what it cannot do


@dataclass
class Alignment:
    """`meta` (conditions) and `lines`: `Tally.figures` of every temperature, task (and all) and depth."""

    meta: dict[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)


class Forced:
    """A drafter and its target over texts of up to `max_length` tokens, by teacher forcing."""

    def __init__(self, trainee: Trainee, target: Target, max_length: int) -> None:
        self.trainee, self.target = trainee, target
        self._reader = Reader(target, (*trainee.taps, -1), max_length)  # the last state gives the target's logits

    @torch.no_grad()
    def tallies(self, text: Text, temperature: float) -> list[Tally]:
        """For each depth: the places of an answer that rounds starting in it would draft at that depth."""
        trainee, M, V = self.trainee, self.target.config.hidden_size, self.target.config.vocab_size
        seen = self._reader.read(text.ids)
        own = replace(seen, features_TF=seen.features_TF[:, :-M])
        batch = collate([(own, text.prompt)], trainee.rule.whole).to(trainee.device)
        hidden_RM, rows = trainee.hidden(batch), batch.layout.rows
        target_AV = _logits(seen.features_TF[text.prompt - 1 : -1, -M:], self.target.decoder.head_VM)
        tokens_A = seen.ids_T[text.prompt :]
        head_DM, ids_D = trainee.head().to(hidden_RM.dtype)[:V], trainee.draft_ids_D
        if ids_D is None and len(head_DM) < V:  # a language model with a smaller table
            ids_D = torch.arange(len(head_DM), device=trainee.device)
        first_R = rows.anchor + trainee.rule.lead - text.prompt  # place of the first token that a group drafts
        tallies = []
        for depth in range(trainee.rule.masks + 1):
            found = ((first_R >= 0) & (rows.depth == depth) & (batch.labels_R >= 0)).nonzero()[:, 0]
            place = first_R[found] + depth
            drafter_AD = _logits(hidden_RM[found], head_DM)
            tallies.append(compare(target_AV[place], drafter_AD, tokens_A[place], ids_D, temperature))
        return tallies


def _logits(hidden_RM: Tensor, head_VM: Weight) -> Tensor:
    """[R, V] fp32."""
    out_RV = torch.zeros(len(hidden_RM), head_VM.shape[0], device=hidden_RM.device)
    if len(hidden_RM):
        ops.linear(hidden_RM.contiguous(), head_VM, out_RV)
    return out_RV


def align(config: AlignmentConfig, target: Target, on_answer: OnQuestion = lambda done, of: None) -> Alignment:
    """The target answers the questions at each temperature, then both read the answers.

    Args:
        on_answer: told (answers done, of how many).

    Raises:
        PspecError subclasses for bad questions, options or drafters; nothing is measured then.
    """
    questions = choose(load_questions(config.questions), limit=config.limit)
    drafter = find_drafter(config.drafter, target)
    if drafter is None:
        raise ConfigError(f"drafter {config.drafter}: expected a checkpoint")
    trainee = trainee_of(drafter, target)
    D = min(len(trainee.head()), target.config.vocab_size)
    about = {"drafter": Path(config.drafter).name, "kind": drafter.kind, "depths": trainee.rule.masks + 1}
    about |= {"draft_vocab": D, "max_new_tokens": config.max_new_tokens, "seed": config.seed}
    report = Alignment(conditions() | of_target(target, torch.get_num_threads()) | about)
    max_length = room(questions, target, config.max_new_tokens)
    generator = Generator(target, None, max_batch=ANSWERED_TOGETHER, max_length=max_length)
    wanted, done = len(config.temperatures) * sum(len(q.turns) for q in questions), count(1)

    def answered() -> None:
        on_answer(next(done), wanted)

    writer = Writer(generator, questions, config.max_new_tokens, config.seed, answered)
    report.skipped = writer.skipped
    for temperature in config.temperatures:
        texts = writer.write(temperature)
        if not texts:
            raise RequestError(f"no question could be answered; the first: {report.skipped[0]['reason']}")
        forced = Forced(trainee, target, max(len(text.ids) for text in texts))
        report.lines += lines_of(temperature, _by_task(forced, texts, temperature))
    return report


def _by_task(forced: Forced, texts: Sequence[Text], temperature: float) -> dict[str, list[Tally]]:
    """A tally per depth of every task, and of all together."""
    K, V = forced.trainee.rule.masks + 1, forced.target.config.vocab_size
    tasks = {name: [Tally(V) for _ in range(K)] for name in (*dict.fromkeys(text.kind for text in texts), OVERALL)}
    for text in texts:
        for depth, tally in enumerate(forced.tallies(text, temperature)):
            tasks[text.kind][depth].add(tally)
            tasks[OVERALL][depth].add(tally)
    return tasks


def lines_of(temperature: float, tasks: dict[str, list[Tally]]) -> list[dict[str, Any]]:
    """A line per task and depth, counted from 1 as drafted positions are."""
    return [
        {"temperature": temperature, "task": task, "depth": depth} | tally.figures()
        for task, tallies in tasks.items()
        for depth, tally in enumerate(tallies, start=1)
    ]


def panels_of(report: Alignment) -> list[Panel]:
    """Four figures of all tasks over the depth, a curve per temperature; dashed: the target's own."""
    figures = {
        "KL(target || drafter), nats": ("kl",),
        "same best token, share": ("top1_agreement",),
        "perplexity of covered tokens": ("perplexity", "target_perplexity"),
        "distance of token frequencies": ("frequency_distance", "frequency_distance_target"),
    }
    return [
        Panel(title, "depth", _curves(report.lines, names), "log" if "perplexity" in title else "linear")
        for title, names in figures.items()
    ]


def _curves(lines: Sequence[dict[str, Any]], names: tuple[str, ...]) -> list[Curve]:
    overall = [line for line in lines if line["task"] == OVERALL]
    curves = []
    for colour, temperature in enumerate(dict.fromkeys(line["temperature"] for line in overall)):
        for name, style, side in zip(names, ("-o", "--"), ("", ", target"), strict=False):
            found = [line for line in overall if line["temperature"] == temperature and line[name] is not None]
            points = [(line["depth"], line[name]) for line in found]
            curves.append(Curve(f"T = {temperature:g}{side}", style, colour, points))
    return curves
