"""What the tests of training share: a tiny target, texts it might have written, drafters with random weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pspec_rt.models import Target, load_target
from pspec_rt.train.batch import Batch, RowRule, collate
from pspec_rt.train.data import Text
from pspec_rt.train.families import Trainee
from pspec_rt.train.features import Reader
from pspec_rt.train.recipe import Recipe, prepare
from tests.tiny import VOCAB, tiny_checkpoint

FEATURE = ("parallelspec-eagle", "parallelspec-medusa")
LANGUAGE = ("pard", "lm")
BASELINES = ("eagle", "p-eagle", "medusa")


@cache
def target() -> Target:
    return load_target(tiny_checkpoint())


def texts(count: int = 24, seed: int = 0) -> list[Text]:
    """Random token sequences of 20 to 40 tokens; ids 4..340, so that some are never used."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(4, 340, (length,), generator=generator).tolist()

    prompts = [ids(5, 12) for _ in range(count)]
    origin = ("somewhere", "CC0")
    return [Text(f"t{i}", "chat", (*prompt, *ids(15, 28)), len(prompt), origin) for i, prompt in enumerate(prompts)]


def write_data(path: Path, rows: list[Text]) -> Path:
    """The texts as an answer file."""
    rest = [{"kind": t.kind, "source": t.origin[0], "licence": t.origin[1]} for t in rows]
    lines = [
        json.dumps({"id": t.id, **more, "prompt_ids": t.ids[: t.prompt], "answer_ids": t.ids[t.prompt :]})
        for t, more in zip(rows, rest, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def drafter(family: str, **options: Any) -> Trainee:
    """A trainee in fp32 with random weights, masks and biases included."""
    usual = {"layers": 2 if family in LANGUAGE else 1, "draft_vocab": 0, "init": "random"}
    recipe = Recipe(family, **{**usual, **options})
    module, _ = prepare(recipe, target(), texts(), texts(3), torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 and parameter.mean() == 1 else 0.1 * noise)
    return module


def batch_of(module: Trainee, rows: list[Text], rule: RowRule | None = None, seed: int = 0) -> Batch:
    """The texts as the rows of a drafter."""
    reader = Reader(target(), module.taps, max(len(text.ids) for text in rows))
    seen = [(reader.read(text.ids), text.prompt) for text in rows]
    return collate(seen, rule or module.rule, torch.Generator().manual_seed(seed))


assert VOCAB > 340
