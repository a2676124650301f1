"""The measuring loop: for every turn of every question all contenders answer the same ids, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import env
from ..errors import RequestError
from ..generator import Generator
from ..hub import demo_model
from ..models.target import Target, load_target
from ..ops._dispatch import native
from .bandwidth import ReadBandwidth, read_bandwidth, weight_bytes
from .contender import Answer, Contender
from .meta import conditions, of_target
from .ours import PspecContender
from .peers import PeerSetup, check_peers, make_peer
from .questions import Question, choose, load_questions
from .summary import Row, against_bandwidth, row_of, summarise

log = logging.getLogger("pspec_rt")

WARM_UP_TOKENS = 16
ENCODED_AGAIN = 32  # an answer's text may be a few tokens longer than what was generated
PLAIN, SPECULATIVE = "plain", "speculative"
OnQuestion = Callable[[int, int], None]  # told (questions done, of how many)


@dataclass(frozen=True)
class BenchConfig:
    """What to measure; see `pspec-rt bench --help`."""

    questions: str | Path
    target: str | Path | None = None  # None: the demo model
    drafter: str | Path | None = "auto"
    max_new_tokens: int = 128
    limit: int | None = None
    tasks: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    dtype: str = "auto"
    drafter_dtype: str | None = None
    loop: str = "auto"
    device: str = "auto"
    temperature: float = 0.0
    seed: int = 0
    k: int | None = None
    tree: str | None = None
    threads: int | None = None
    ignore_generation_config: bool = False


@dataclass
class Report:
    """The measurement: `meta` (conditions), `questions` (rows), `tasks` and `summary` (see `summary.py`)."""

    meta: dict[str, Any]
    questions: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


def measure(config: BenchConfig, on_question: OnQuestion = lambda done, of: None) -> Report:
    """Run the measurement; `on_question(done, of)` is called after every question.

    Raises PspecError subclasses for bad questions, options, checkpoints; nothing is measured then.
    """
    if config.max_new_tokens < 1:
        raise RequestError(f"max_new_tokens={config.max_new_tokens}: expected a whole number >= 1")
    check_peers(config.peers, config.temperature)
    questions = choose(load_questions(config.questions), config.tasks, config.limit)
    threads = set_threads(config.threads)
    contenders, ours = _contenders(config)
    report = Report(conditions() | _describe(config, ours, threads))
    warm_up(contenders, ours, questions[0])
    bandwidth = read_bandwidth() if ours.target.device.type == "cpu" else None
    report.questions, report.skipped = ask_all(questions, contenders, ours, config.max_new_tokens, on_question)
    report.tasks = {
        task: summarise([row for row in report.questions if row["task"] == task])
        for task in dict.fromkeys(row["task"] for row in report.questions)
    }
    report.summary = summarise(report.questions)
    if bandwidth is not None:
        _add_bandwidth(report, bandwidth, weight_bytes(ours.target.decoder))
    return report


def _contenders(config: BenchConfig) -> tuple[list[Contender], Generator]:
    """Plain, speculative (if there is a drafter) and the peers; and the Generator that knows the chat template."""
    target = load_target(
        config.target or demo_model(),
        dtype=config.dtype,
        device=config.device,
        ignore_generation_config=config.ignore_generation_config,
    )
    options: dict[str, Any] = {"drafter_dtype": config.drafter_dtype, "k": config.k, "tree": config.tree}
    generator = Generator(target, config.drafter, **options, loop=config.loop, max_batch=1)
    plain = Generator(target, None, loop=config.loop, max_batch=1)
    ours = [PspecContender(PLAIN, plain, config.temperature, config.seed)]
    if generator.drafter is not None:
        ours.append(PspecContender(SPECULATIVE, generator, config.temperature, config.seed))
    setup = PeerSetup(target.path, target.dtype, target.device, target.eos_ids, torch.get_num_threads())
    return [*ours, *(make_peer(name, setup) for name in config.peers)], generator


def _describe(config: BenchConfig, generator: Generator, threads: int) -> dict[str, Any]:
    target, drafter = generator.target, generator.drafter
    return of_target(target, threads) | {
        "drafter": drafter.kind if drafter else None,
        "tree": generator.tree.name if generator.tree else None,
        "loop": generator.loop,
        "temperature": config.temperature,
        "seed": config.seed,
        "max_new_tokens": config.max_new_tokens,
        "peers": list(config.peers),
    }


def _add_bandwidth(report: Report, bandwidth: ReadBandwidth, weights: int) -> None:
    """What was read to measure it goes to meta, the figures to the summary."""
    report.meta |= {"read_bandwidth": asdict(bandwidth), "weight_bytes": weights}
    report.summary |= against_bandwidth(report.summary, bandwidth.gbs, weights)


def set_threads(threads: int | None) -> int:
    """The same number of threads for the native kernels and for torch, so for peers too."""
    threads = env.threads() if threads is None else threads
    if threads < 1:
        raise RequestError(f"threads={threads}: expected a whole number >= 1")
    torch.set_num_threads(threads)
    if native.available:
        native.set_num_threads(threads)
    return threads


def warm_up(contenders: list[Contender], generator: Generator, question: Question) -> None:
    """Allocations, first-call set-up and page faults happen here, outside the clock."""
    prompt_ids = generator.encode([{"role": "user", "content": question.turns[0]}])[:64]
    for contender in contenders:
        contender.answer(prompt_ids, WARM_UP_TOKENS)


def room(questions: Sequence[Question], target: Target, max_new_tokens: int) -> int:
    """A max_length in which every conversation fits, if the model's limit allows; several engines share the memory."""
    encode, most = Generator(target, None).encode, 2
    for question in questions:
        said = []
        for turn in question.turns:
            said += [{"role": "user", "content": turn}, {"role": "assistant", "content": "."}]
        most = max(most, len(encode(said[:-1])) + len(question.turns) * (max_new_tokens + ENCODED_AGAIN))
    return min(most, target.config.max_positions)


def ask_all(
    questions: Sequence[Question],
    contenders: list[Contender],
    generator: Generator,
    max_new_tokens: int,
    on_question: OnQuestion,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """(a row per question, what was left out and why); who goes first rotates.

    Raises RequestError if no question could be run.
    """
    rows: list[Row] = []
    skipped: list[dict[str, Any]] = []
    for index, question in enumerate(questions):
        turn = index % len(contenders)
        try:
            rows.append(ask(question, contenders[turn:] + contenders[:turn], generator, max_new_tokens))
        except RequestError as error:
            log.warning("question %s is left out: %s", question.question_id, error)
            skipped.append({"question_id": question.question_id, "reason": str(error)})
        on_question(index + 1, len(questions))
    if not rows:
        raise RequestError(f"no question could be run; the first: {skipped[0]['reason']}")
    return rows, skipped


def ask(question: Question, contenders: list[Contender], generator: Generator, max_new_tokens: int) -> Row:
    """All turns of one question; the plain answer goes into the history, so everybody continues the same ids."""
    messages: list[dict[str, str]] = []
    turns: list[dict[str, Answer]] = []
    prompt_tokens = 0
    for user in question.turns:
        messages.append({"role": "user", "content": user})
        prompt_ids = generator.encode(messages)
        prompt_tokens += len(prompt_ids)
        turns.append({c.name: c.answer(prompt_ids, max_new_tokens) for c in contenders})
        messages.append({"role": "assistant", "content": turns[-1][PLAIN].text})
    return row_of(question, prompt_tokens, turns)
