"""A whole training job: data, the target's features, the drafter, the loop, the picture."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .. import env
from ..measure.meta import cpu_name
from ..models.target import DTYPE_NAMES, Target
from ..tokenizer import Tokenizer
from .card import write_card
from .data import Text, load_texts, split
from .errors import disk_errors
from .evaluate import Acceptance
from .features import features_of
from .fingerprint import fingerprint
from .loop import LOG, Material, Report, TrainConfig, Training
from .plot import plot_available, plot_log
from .recipe import Recipe, prepare, start_fitted

log = logging.getLogger("pspec_rt")

HELD_SHARE = 0.02
JOB = "job.json"


@dataclass(frozen=True)
class Job:
    """What `pspec-rt train` was asked for.

    Attributes:
        data, out: the JSONL file, and the folder of the drafter, its log, its state and its card.
        dtype: of the rows in training, "bf16" or "fp32".
        max_length, limit: longer texts are left out; at most so many are used (None: all).
        held_out: texts to measure acceptance on.
        cache: folder of the target's features, or None to make them anew each time.
        command: what the user typed, for the card.
    """

    data: Path
    out: Path
    recipe: Recipe
    config: TrainConfig
    dtype: str = "bf16"
    max_length: int = 1024
    limit: int | None = None
    held_out: int = 48
    cache: Path | None = None
    command: str = ""


def train(
    job: Job, target: Target, advance: Callable[[int, int], None] = lambda done, total: None,
    report: Report = lambda row: None,
) -> Acceptance:  # fmt: skip
    """Train, or go on with, the drafter in `job.out`; returns its last evaluation.

    Args:
        advance: told (tokens done, of how many) while the target reads the texts.
        report: told of every row of the log.

    Raises:
        TrainError, ConfigError, DrafterMismatchError: see the parts.
    """
    with _processes(target.device):
        return _train(job, target, advance, report)


def _train(job: Job, target: Target, advance: Callable[[int, int], None], report: Report) -> Acceptance:
    _check_source(job, target)
    found = load_texts(job.data, target.config.vocab_size, job.max_length, lambda: Tokenizer(target.path))
    texts = found.texts[: job.limit]
    train_part, held = split(texts, HELD_SHARE, job.held_out)
    log.info("%d texts to train on, %d held out", len(train_part), len(held))
    learn, unseen = ([texts[i] for i in part] for part in (train_part, held))
    module, facts = prepare(job.recipe, target, learn, unseen, DTYPE_NAMES[job.dtype])
    total, done = sum(len(text.ids) for text in texts), 0

    def tell(tokens: int) -> None:
        nonlocal done
        done += tokens
        advance(done, total)

    with _first_process_first():  # it writes the cache, the others find it
        features = features_of(target, job.recipe.read_taps(target), texts, job.cache, tell)
    advance(total, total)
    material = Material(texts, features, train_part, held)
    with disk_errors(job.out, "Choose another --out"):
        job.out.mkdir(parents=True, exist_ok=True)
    training = Training(module, material, job.config, job.out, report)
    if training.resume():
        facts |= _facts_of_start(job.out)
    else:
        facts |= start_fitted(job.recipe, module, target, texts, features, train_part)
        if training.world > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)
    if training.rank == 0:
        _write_job(job, facts, target, skipped=dict(found.skipped), tokens=total, sources=_sources(texts))
    acceptance = training.run()
    if training.rank == 0:
        write_card(job.out, json.loads((job.out / JOB).read_text()), job.out / LOG)
        if plot_available():
            plot_log(job.out / LOG, job.out / "training.png")
    return acceptance


@contextmanager
def _processes(device: torch.device) -> Iterator[None]:
    """Under torchrun, the group of its processes."""
    if env.local_rank() is None:
        yield
        return
    # Reading features may take one process hours, while the others wait.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _first_process_first() -> Iterator[None]:
    """The body runs in the first process, then in the others."""
    together = dist.is_initialized()
    if together and dist.get_rank() > 0:
        dist.barrier()
    yield
    if together and dist.get_rank() == 0:
        dist.barrier()


def _check_source(job: Job, target: Target) -> None:
    """Warn if another target wrote the answers."""
    meta = job.data.with_name(job.data.name + ".meta.json")
    if not meta.is_file():
        return
    written_by = json.loads(meta.read_text())
    if written_by.get("fingerprint") not in (None, fingerprint(target.path)):
        log.warning(
            "%s was written by another target (%s): a drafter learns best from its own target's answers",
            job.data, written_by.get("target"),
        )  # fmt: skip


def _facts_of_start(out: Path) -> dict[str, Any]:
    """What the first start of a resumed run found out."""
    path = out / JOB
    row = json.loads(path.read_text()) if path.is_file() else {}
    return {"fit_explains": row["fit_explains"]} if "fit_explains" in row else {}


def _sources(texts: Sequence[Text]) -> list[dict[str, Any]]:
    """How many texts come from where, most first."""
    counts = Counter(text.origin for text in texts)
    return [{"source": source, "licence": licence, "texts": n} for (source, licence), n in counts.most_common()]


def _write_job(job: Job, facts: dict[str, Any], target: Target, **counts: Any) -> None:
    """OUT/job.json: what a model card needs."""
    device = torch.cuda.get_device_name() if target.device.type == "cuda" else cpu_name()
    row = {
        "data": job.data.name, "target": target.path.name, "recipe": asdict(job.recipe), "training": asdict(job.config),
        "dtype": job.dtype, "max_length": job.max_length, "torch": torch.__version__,
        "processes": dist.get_world_size() if dist.is_initialized() else 1, "threads": torch.get_num_threads(),
        "device": device, "command": job.command, **facts, **counts,
    }  # fmt: skip
    with disk_errors(job.out, "Choose another --out"):
        (job.out / JOB).write_text(json.dumps(row, indent=1) + "\n")
