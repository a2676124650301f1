"""Distillation data: the target answers prompts with the batched engine, and the token ids are kept."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import ConfigError, RequestError
from ..models.target import Target
from ..sampling import SamplingParams
from ..tokenizer import Tokenizer
from .answers import AnswerFile
from .fingerprint import fingerprint
from .prompts import Prompt, PromptError, choose, load_prompts

log = logging.getLogger("pspec_rt")

PREFILL_CHUNK = 512  # most prompts in one piece: a free slot runs in the next round
LOG_SECONDS = 60.0
Advance = Callable[[int], None]  # rows finished in this round


@dataclass(frozen=True)
class DistillConfig:
    """What to answer and how.

    Attributes:
        prompts, out: the prompt file and the answer file (see `prompts`, `answers`).
        max_new_tokens: longest answer.
        temperatures: one answer per value and prompt, `samples` for a value above 0.
        seed: every row's own seed is a hash of it, the temperature, the prompt and the sample's number.
        max_batch: sequences decoded together; it does not change the answers.
        limit: at most this many prompts, counted after the choice and the shuffle.
        kinds: only prompts of these kinds.
        shuffle_seed: take the prompts in a random order, so that a part of them covers all kinds; None: file order.
        max_prompt_tokens: longer prompts are left out.
        dedupe: answer prompts that differ in whitespace only once.
    """

    prompts: Path
    out: Path
    max_new_tokens: int = 256
    temperatures: tuple[float, ...] = (0.0,)
    samples: int = 1
    seed: int = 0
    max_batch: int = 64
    limit: int | None = None
    kinds: tuple[str, ...] = ()
    shuffle_seed: int | None = None
    max_prompt_tokens: int = 768
    dedupe: bool = True

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "samples", "max_batch", "limit", "max_prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: expected a whole number >= 1")
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ConfigError(f"temperatures={self.temperatures}: expected at least one, each once")
        for temperature in self.temperatures:
            SamplingParams(self.max_new_tokens, temperature)  # refuses what it cannot do


@dataclass
class DistillReport:
    """What a run did; the rows and tokens per kind are those of the whole file."""

    rows: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # reason -> prompts (NaN: answers)
    rows_before: int = 0  # found in the file
    rows_wanted: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def count(self, kind: str, tokens: int) -> None:
        self.rows[kind] += 1
        self.tokens[kind] += tokens


@dataclass(frozen=True)
class _Job:
    """One answer to write."""

    prompt: Prompt
    prompt_ids: list[int]
    temperature: float
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        return self.prompt.id, self.seed

    def row(self, answer_ids: list[int], reason: str) -> dict[str, Any]:
        labels = {name: self.prompt.labels.get(name, "") for name in ("kind", "source", "licence")}
        return {
            "id": self.prompt.id, **labels, "prompt_ids": self.prompt_ids, "answer_ids": answer_ids,
            "temperature": self.temperature, "seed": self.seed, "finish_reason": reason,
        }  # fmt: skip


def distill(
    config: DistillConfig,
    target: Target,
    start: Callable[[DistillReport], Advance] = lambda report: lambda rows: None,
) -> DistillReport:
    """Answer the prompts that have no row yet, appending each row as its sequence ends.

    A row depends on the target, its prompt, the seed and the sampling alone: not on the batch, the prompts' order, or
    how often the run was stopped. On KeyboardInterrupt what is done is kept.

    Args:
        config: see `DistillConfig`.
        target: from `load_target`.
        start: called once before the work with what was found; gives the function that is told of progress.

    Raises:
        PromptError, ConfigError, AnswerError: before work starts, and AnswerError when the disk is full.
    """
    report = DistillReport()
    file = load_prompts(config.prompts)
    chosen, report.skipped["repeated"] = choose(file.prompts, config.kinds, config.shuffle_seed, config.dedupe)
    jobs, longest = _jobs(config, target, chosen, report)
    with AnswerFile(config.out, _settings(config, target, file.sha256)) as out:
        for kind, tokens in out.kept:
            report.count(kind, tokens)
        jobs = list({job.key: job for job in jobs if job.key not in out.done}.values())
        report.rows_before, report.rows_wanted = len(out.done), len(out.done) + len(jobs)
        begin = time.perf_counter()
        try:
            if jobs:
                _run(config, target, jobs, longest + config.max_new_tokens, out, report, start(report))
        except KeyboardInterrupt:
            report.interrupted = True
        report.seconds = time.perf_counter() - begin
        out.write_meta(
            {"rows": dict(report.rows), "answer_tokens": dict(report.tokens), "skipped": dict(report.skipped)}
        )
    return report


def _run(
    config: DistillConfig,
    target: Target,
    jobs: Sequence[_Job],
    max_length: int,
    out: AnswerFile,
    report: DistillReport,
    advance: Advance,
) -> None:
    """Keep all slots busy until every job has its row."""
    slots = min(config.max_batch, len(jobs))
    engine = Engine(target, max_batch=slots, max_length=max_length, prefill_chunk=PREFILL_CHUNK)
    waiting = iter(jobs)
    running: dict[int, tuple[_Job, list[int]]] = {}
    logged = begin = time.perf_counter()
    while True:
        for job in islice(waiting, len(engine.free_slots)):
            slot = engine.add(job.prompt_ids, SamplingParams(config.max_new_tokens, job.temperature, seed=job.seed))
            running[slot] = job, []
        if not running:
            return
        rows = 0
        for output in engine.step():
            job, ids = running[output.slot]
            ids += output.token_ids
            report.new_tokens += len(output.token_ids)
            if output.finish_reason is None:
                continue
            del running[output.slot]
            engine.release(output.slot)
            if output.finish_reason == "error":
                report.skipped["NaN logits"] += 1
                continue
            rows += 1
            out.append(job.key, job.row(ids, output.finish_reason))
            report.count(job.prompt.labels.get("kind", ""), len(ids))
        advance(rows)
        if (now := time.perf_counter()) - logged > LOG_SECONDS:
            logged, speed = now, report.new_tokens / (now - begin)
            log.info("%d of %d rows, %.0f tokens/s", len(out.done), report.rows_wanted, speed)


def _jobs(
    config: DistillConfig, target: Target, prompts: Sequence[Prompt], report: DistillReport
) -> tuple[list[_Job], int]:
    """What to answer, and the length of the longest prompt."""
    model_limit = target.config.max_positions - config.max_new_tokens
    if model_limit < 1:
        raise ConfigError(
            f"max_new_tokens={config.max_new_tokens} leaves no room for a prompt: the model's limit is "
            f"{target.config.max_positions} tokens"
        )
    most = min(config.max_prompt_tokens, model_limit)

    def short_ones() -> Iterator[tuple[Prompt, list[int]]]:
        tokenizer = Tokenizer(target.path)
        for prompt in prompts:
            ids = _encode(tokenizer, prompt)
            if len(ids) <= most:
                yield prompt, ids
            else:
                report.skipped[f"longer than {most} tokens"] += 1

    taken = list(islice(short_ones(), config.limit))
    if not taken:
        raise ConfigError(f"{config.prompts}: no prompt has at most {most} tokens: raise max_prompt_tokens")
    jobs = (_samples(config, prompt, ids) for prompt, ids in taken)
    return list(chain.from_iterable(jobs)), max(len(ids) for _, ids in taken)


def _encode(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    try:
        if isinstance(prompt.content, str):
            return tokenizer.encode(prompt.content)
        if not tokenizer.has_chat_template:
            raise RequestError(f"{tokenizer.name} has no chat template: give raw prompts as `text`")
        return tokenizer.encode_chat(prompt.content)
    except RequestError as error:
        raise PromptError(f"{prompt.where}: {error}") from error


def _samples(config: DistillConfig, prompt: Prompt, prompt_ids: list[int]) -> Iterator[_Job]:
    for temperature in config.temperatures:
        for sample in range(config.samples if temperature > 0 else 1):
            yield _Job(prompt, prompt_ids, temperature, _row_seed(config.seed, temperature, sample, prompt_ids))


def _row_seed(seed: int, temperature: float, sample: int, prompt_ids: list[int]) -> int:
    """Seed of one answer; it does not depend on the prompt's place in the file."""
    text = f"{seed} {float(temperature)!r} {sample} {prompt_ids}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def _settings(config: DistillConfig, target: Target, prompts_sha256: str) -> dict[str, Any]:
    """What a file's rows have in common. `limit` and `max_batch` may change when a run goes on."""
    return {
        "target": target.path.name,
        "fingerprint": fingerprint(target.path),
        "dtype": target.dtype_name,
        "device": target.device.type,
        "prompts": config.prompts.name,
        "prompts_sha256": prompts_sha256,
        "max_new_tokens": config.max_new_tokens,
        "temperatures": [float(t) for t in config.temperatures],
        "samples": config.samples,
        "seed": config.seed,
        "kinds": sorted(config.kinds),
        "shuffle_seed": config.shuffle_seed,
        "max_prompt_tokens": config.max_prompt_tokens,
        "dedupe": config.dedupe,
    }
