"""Training equals inference: a training row's logits are those of the drafter in the real engine's rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pspec_rt.drafters.checkpoint import load_drafter
from pspec_rt.engine import Engine
from pspec_rt.sampling import SamplingParams
from pspec_rt.train.attention import MaskedAttention
from pspec_rt.train.data import Text
from pspec_rt.train.families import FeatureTrainee, Trainee
from pspec_rt.tree import TreeSpec
from tests.train.setups import batch_of, drafter, target, texts

C = 6
Draft = tuple[int, int, torch.Tensor, torch.Tensor]  # slot, committed length, ids and scores [K, C]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("parallelspec-eagle", {"taps": (-1,), "parts": ()}),
    ("parallelspec-eagle", {"draft_vocab": 90}),
    ("parallelspec-eagle", {"layers": 2, "parts": ("bias", "anchor_map", "head", "embedding", "blocks")}),
    ("parallelspec-medusa", {"draft_vocab": 90, "parts": ("bias", "anchor_map", "blocks")}),
    ("parallelspec-medusa", {"parts": ()}),
    ("pard", {}),
    ("p-eagle", {"layers": 2, "draft_vocab": 90}),
    ("medusa", {}),
]


def drafts_of_the_engine(folder: Path, k: int, prompts: list[list[int]], rounds: int) -> tuple[list[Draft], list[Text]]:
    """What the saved drafter drafts in every round of every slot, and the texts that came of it."""
    tree = TreeSpec.best_first(k, min(8, 1 + C * k), C)
    engine = Engine(target(), load_drafter(folder, target()), max_batch=len(prompts), k=k, tree=tree, prefill_chunk=8)
    params = SamplingParams(max_new_tokens=64, ignore_eos=True)
    for prompt in prompts:
        engine.add(prompt, params)
    drafts, state = [], engine.state
    for _ in range(rounds):
        engine.step()
        for slot in range(len(prompts)):
            length = int(state.length_B[slot] - state.count_B[slot])
            drafts.append(
                (slot, length, state.candidate_ids_BKC[slot].clone(), state.candidate_scores_BKC[slot].clone())
            )
    made = [Text("", "", tuple(row[:n].tolist()), 1) for row, n in zip(state.tokens_BS, state.length_B, strict=True)]
    return drafts, made


def check(module: Trainee, drafts: list[Draft], made: list[Text]) -> int:
    """Compare each draft with the training rows behind its anchor; returns how many rows there were."""
    batch, compared = batch_of(module, made), 0
    with torch.no_grad():
        fast, slow = module.hidden(batch), module.hidden(batch, MaskedAttention(batch.layout))
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
        scores_RD = (fast @ module.head().T).log_softmax(-1)
    fields = batch.layout.rows
    for slot, length, ids_KC, scores_KC in drafts:
        for depth in range(len(ids_KC)):
            group = (fields.text == slot) & (fields.anchor == length - module.rule.lead)
            found = (group & (fields.depth == depth)).nonzero()
            if not len(found):
                continue  # the text ends before the token this row would predict
            best = scores_RD[int(found)].topk(C)
            ids = best.indices if module.draft_ids_D is None else module.draft_ids_D[best.indices]
            assert ids_KC[depth].tolist() == ids.tolist()
            torch.testing.assert_close(scores_KC[depth], best.values, rtol=1e-3, atol=1e-4)
            compared += 1
    return compared


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("family, options", CASES)
def test_training_rows_are_the_rows_of_inference(family: str, options: dict[str, Any], k: int, tmp_path: Path) -> None:
    module = drafter(family, k=k, **options)
    if isinstance(module, FeatureTrainee):  # a scale that is not folded right shows
        module.rescale(0.5 + torch.rand(len(module.scale_W)))
    module.save(tmp_path)
    text = texts(1, seed=7)[0].ids
    prompts = [list(text[:length]) for length in range(2, 14)]
    drafts, made = drafts_of_the_engine(tmp_path, k, prompts, rounds=9)
    assert check(module, drafts, made) > 3 * k * len(prompts)


def test_fewer_depths_than_trained(tmp_path: Path) -> None:
    module = drafter("parallelspec-eagle", k=5)
    module.save(tmp_path)
    drafts, made = drafts_of_the_engine(tmp_path, 2, [list(texts(1)[0].ids[:9])], rounds=4)
    assert check(module, drafts, made) > 4


def test_an_eagle_head_drafts_what_its_rows_predict(tmp_path: Path) -> None:
    """Its first depth; the others feed on its own states."""
    module = drafter("eagle", draft_vocab=90)
    module.save(tmp_path)
    engine = Engine(target(), load_drafter(tmp_path, target()), k=1, tree=TreeSpec.chain(1), prefill_chunk=8)
    engine.add(list(texts(1)[0].ids[:9]), SamplingParams(max_new_tokens=64, ignore_eos=True))
    state, drafted = engine.state, {}
    for _ in range(12):
        engine.step()
        drafted[int(state.length_B[0] - state.count_B[0])] = int(state.ids_BN[0, 1])
    made = Text("", "", tuple(state.tokens_BS[0, : state.length_B[0]].tolist()), 1)
    batch = batch_of(module, [made])
    with torch.no_grad():
        best_R = (module.hidden(batch) @ module.head().T).argmax(-1)
    assert module.draft_ids_D is not None
    for length, token in drafted.items():
        if length < len(made.ids):
            assert token == module.draft_ids_D[best_R[length - module.rule.lead]]
