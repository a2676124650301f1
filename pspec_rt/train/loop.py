"""The training loop: batches, optimiser, schedule, checkpoints that resume bit for bit, evaluation on the way."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError
from .batch import Batch, collate
from .data import Text
from .errors import TrainError, disk_errors
from .evaluate import Acceptance, default_trees, evaluate
from .families import Trainee
from .features import Features
from .optimizer import Optimizer

log = logging.getLogger("pspec_rt")

STATE, LOG = "training.pt", "log.jsonl"


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps, minutes: the end, whichever comes first; one of them must be given.
        batch, micro: anchors per optimiser step, and at most in one pass (gradients are accumulated).
        lr, input_lr, muon: peak learning rate, its factors for the matrices that read the target's features and for
            those that Muon updates (0: AdamW does); see `Optimizer`.
        warm_up, floor: steps until the peak; the rate's factor at the end of the cosine.
        keep, least: conditional drop-token: depth d keeps the share max(keep**d, least) of the groups.
        prompts: learn prompt tokens too, not only the answer's.
        hard: weight of cross-entropy; the rest is KL to the target's best tokens.
        depth_decay: loss weight of depth d is depth_decay**d.
        eval_every: steps between evaluations, which also save; None: 20 times a run of `steps`, else every 5 minutes.
        seed: of the order of texts and of what is dropped.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 2048
    micro: int = 1024
    lr: float = 1e-3
    input_lr: float = 0.05
    muon: float = 2.0
    warm_up: int = 60
    floor: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    keep: float = 0.7
    least: float = 0.2
    prompts: bool = True
    hard: float = 0.0
    depth_decay: float = 0.8
    eval_every: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ConfigError("give the end of training: a number of steps or of minutes")
        for name in ("steps", "minutes", "batch", "micro", "lr", "input_lr", "warm_up", "eval_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name}={value}: expected a number above 0")
        if self.muon < 0:
            raise ConfigError(f"muon={self.muon}: expected 0 or a number above")
        for name in ("floor", "keep", "least", "hard", "depth_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: expected a number from 0 to 1")

    def share(self, step: int, seconds: float) -> float:
        """How much of a run is over, 0..1; the schedule follows it."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


@dataclass(frozen=True)
class Material:
    """Texts with the target's view of them; `train` and `held` are indices into both."""

    texts: Sequence[Text]
    features: Features
    train: Sequence[int]
    held: Sequence[int]


@dataclass
class Progress:
    """Where a run stands; saved with the weights."""

    step: int = 0
    epoch: int = 0
    place: int = 0  # texts of the epoch that are used up
    anchors: int = 0
    seconds: float = 0.0


Report = Callable[[dict[str, Any]], None]  # told of every row of the log


def _parallel(trainee: Trainee) -> nn.Module:
    """One copy in every process; a batch may leave out a depth, and with it parameters."""
    return DistributedDataParallel(trainee, find_unused_parameters=True)


class Training:
    """One run, in the folder `out`: the drafter (saved at every evaluation), the log and the state to resume from.

    Args:
        trainee: the drafter; its weights change.
        report: told of every row that goes to the log, and of the steps between them.
    """

    def __init__(
        self, trainee: Trainee, material: Material, config: TrainConfig, out: Path, report: Report = lambda row: None
    ) -> None:
        self.trainee, self.material, self.config, self.out, self.report = trainee, material, config, out, report
        self.rule = replace(trainee.rule, keep=config.keep, least=config.least, prompts=config.prompts)
        self.depth_weights = [config.depth_decay**depth for depth in range(self.rule.masks + 1)]
        self.optimizer = Optimizer(trainee, config.lr, config.input_lr, config.muon, config.weight_decay)
        self.progress = Progress()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._model: nn.Module = _parallel(trainee) if self.world > 1 else trainee
        self._saved_step: int | None = None

    # -- the run -------------------------------------------------------------------------------------------------

    def run(self) -> Acceptance:
        """Train to the end; returns the last evaluation, with which the drafter was saved.

        Raises TrainError if the loss is NaN (the last saved drafter and state stay) or the disk is full.
        """
        self._evaluate_and_save()
        evaluated = time.perf_counter()
        while self._share() < 1:
            start = time.perf_counter()
            row = self.step()
            if self.world > 1:
                torch.distributed.barrier()
            self.progress.seconds += time.perf_counter() - start
            self._write_log(row | {"seconds": round(self.progress.seconds, 2)})
            if self._is_due(time.perf_counter() - evaluated) and self._share() < 1:
                self._evaluate_and_save()
                evaluated = time.perf_counter()
        return self._evaluate_and_save()

    def _share(self) -> float:
        share = self.config.share(self.progress.step, self.progress.seconds)
        if self.world == 1:
            return share
        shared = torch.tensor(share, device=self.trainee.device)  # clocks differ: all ranks must stop together
        dist.broadcast(shared, 0)
        return float(shared)

    def _is_due(self, seconds: float) -> bool:
        every, steps = self.config.eval_every, self.config.steps
        if every is None and steps is not None:
            every = max(1, steps // 20)
        if every is not None:
            return self.progress.step % every == 0
        return seconds > 300

    def rate(self, step: int, share: float) -> float:
        """Factor of the learning rate: linear warm-up of the first steps, times a cosine over the run to `floor`."""
        floor = self.config.floor
        cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
        return min(1.0, (step + 1) / self.config.warm_up) * cosine

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its row of the log."""
        config, progress = self.config, self.progress
        factor = self.rate(progress.step, self._share())
        begin, parts_KL = time.perf_counter(), torch.zeros(len(self.depth_weights), 2)
        passes = max(1, round(config.batch / config.micro / self.world))
        anchors = rows = 0
        for batch in self._batches(passes):
            loss, weight, parts = self._model(batch, self.depth_weights, config.hard)
            (loss / weight.clamp(min=1) / passes).backward()
            parts_KL += parts.cpu()
            anchors += batch.anchors
            rows += len(batch.labels_R)
        norm = float(nn.utils.clip_grad_norm_(self.trainee.parameters(), config.clip))
        loss_K = (parts_KL[:, 0] / parts_KL[:, 1].clamp(min=1)).tolist()
        if not math.isfinite(norm) or not all(map(math.isfinite, loss_K)):
            self.optimizer.zero_grad()
            raise TrainError(
                f"the loss is not a number after step {progress.step}. {self.out} keeps the drafter of step "
                f"{self._saved_step}; run the same command with a lower --lr to go on from there"
            )
        self.optimizer.step(factor)
        progress.step += 1
        progress.anchors += anchors * self.world
        return {
            "step": progress.step,
            "anchors": progress.anchors,
            "rows_per_anchor": round(rows / max(anchors, 1), 3),
            "lr": config.lr * factor,
            "loss": [round(value, 4) for value in loss_K],
            "norm": round(norm, 3),
            "anchors_per_s": round(anchors * self.world / (time.perf_counter() - begin)),
        }

    def _batches(self, count: int) -> Iterator[Batch]:
        """The next `count` batches of this rank; the same for the same seed, step and number of ranks."""
        progress, config = self.progress, self.config
        generator = torch.Generator().manual_seed(hash((config.seed, progress.step, self.rank)) & (2**63 - 1))
        for _ in range(count):
            chosen: list[tuple[Any, int]] = []
            anchors = 0
            while not chosen or anchors < config.micro:
                index = self._next_text()
                text = self.material.texts[index]
                more = len(text.ids) if config.prompts else text.answer
                chosen.append((self.material.features[index], text.prompt))
                anchors += more
            yield collate(chosen, self.rule, generator).to(self.trainee.device)

    def _next_text(self) -> int:
        """The next text of this rank; a new order in every epoch."""
        progress, own = self.progress, self.material.train[self.rank :: self.world] or self.material.train
        if progress.place >= len(own):
            progress.epoch, progress.place = progress.epoch + 1, 0
        if getattr(self, "_order_epoch", None) != progress.epoch:
            generator = torch.Generator().manual_seed(hash((self.config.seed, progress.epoch)) & (2**63 - 1))
            self._order = torch.randperm(len(own), generator=generator).tolist()
            self._order_epoch = progress.epoch
        progress.place += 1
        return own[self._order[progress.place - 1]]

    # -- what is kept --------------------------------------------------------------------------------------------

    def _evaluate_and_save(self) -> Acceptance:
        """Evaluate on the held-out texts, log, and save drafter and state; rank 0 does."""
        held = [(index, self.material.texts[index]) for index in self.material.held]
        acceptance = Acceptance({}, [], [])
        if self.rank == 0:
            acceptance = evaluate(self.trainee, self.material.features, held, default_trees(self.rule.masks + 1))
            self._write_log({"step": self.progress.step, "eval": asdict(acceptance)})
            self.save()
        if self.world > 1:
            torch.distributed.barrier()
        return acceptance

    def save(self) -> None:
        """Write drafter and state, each whole or not at all."""
        state = {
            "model": self.trainee.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "config": asdict(self.config),
        }
        new = self.out / "new"
        with disk_errors(self.out, f"It keeps the drafter of step {self._saved_step}: make room and run it again"):
            self.trainee.save(new)
            torch.save(state, new / STATE)
            for file in sorted(new.iterdir()):
                os.replace(file, self.out / file.name)
            new.rmdir()
        self._saved_step = self.progress.step

    def resume(self) -> bool:
        """Go on from the folder's state, if it has one; raises TrainError if it is of another drafter."""
        path = self.out / STATE
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.trainee.device, weights_only=True)
            self.trainee.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
            raise TrainError(
                f"{path} cannot be resumed: {str(error).splitlines()[0]}. Repeat the options it was started with, or "
                "choose another --out"
            ) from error
        self._saved_step = self.progress.step
        return True

    def _write_log(self, row: dict[str, Any]) -> None:
        if self.rank == 0:
            with disk_errors(self.out / LOG, "Make room and run it again"), (self.out / LOG).open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.report(row)
