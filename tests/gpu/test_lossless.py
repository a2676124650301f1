"""On the GPU: speculative decoding gives the tokens of plain decoding, whatever the tree, the mode and the batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pspec_rt.drafters.lookup import LookupDrafter
from pspec_rt.drafters.new import init_drafter
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.models.target import Target, load_target
from pspec_rt.sampling import SamplingParams
from pspec_rt.tree import TreeSpec
from tests.oracle import OracleDrafter
from tests.running import run
from tests.tiny import tiny_target

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
PROMPTS = [[5, 9, 2, 7, 5, 9], [11, 3], list(range(20, 120))]
TOKENS = 60
PARAMS = {
    "greedy": SamplingParams(TOKENS, ignore_eos=True),
    "noise": SamplingParams(TOKENS, temperature=1.0, seed=7, ignore_eos=True),
    "filtered": SamplingParams(TOKENS, temperature=0.9, top_p=0.9, top_k=100, min_p=0.01, seed=8, ignore_eos=True),
}
TREES = [TreeSpec.chain(4), TreeSpec.best_first(4, 16, 4), TreeSpec.best_first(6, 64, 8)]


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def target(request: pytest.FixtureRequest) -> Target:
    """A tiny Llama with random weights, loaded onto the GPU."""
    return load_target(tiny_target().path, dtype=request.param, device="cuda")


def generate(target: Target, drafter: object, tree: TreeSpec | None, mode: str, batch: int) -> list[list[int]]:
    params = [dataclasses.replace(PARAMS[mode], seed=PARAMS[mode].seed + slot) for slot in range(batch)]
    with torch.device("cpu"):  # the default device of programs that use an engine
        engine = Engine(target, drafter, max_batch=batch, max_length=256, tree=tree, prefill_chunk=32)
        assert "ref" not in (engine.backends["linear"], engine.backends["tree_attention"])
        return run(engine, PROMPTS[:batch], params)


@pytest.mark.parametrize("mode", PARAMS)
def test_speculative_equals_plain(target: Target, mode: str) -> None:
    expected = generate(target, None, None, mode, 1)[0]
    assert generate(target, None, None, mode, 3)[0] == expected, "the batch changed a sequence"
    known = [PROMPTS[0] + expected]
    for tree in TREES:
        drafter = init_drafter("parallelspec-eagle", target, tree.k, draft_vocab=64, seed=torch.randint(99, ()).item())
        for each in (drafter, LookupDrafter(drafter)):
            assert generate(target, each, tree, mode, 1)[0] == expected, f"{each.kind}, {tree.name}"
        for kind in ("good", "flaky"):
            oracle = OracleDrafter(kind, known, target.config.vocab_size)
            assert generate(target, oracle, tree, mode, 1)[0] == expected, f"{kind}, {tree.name}"
    assert generate(target, NgramDrafter(), None, mode, 1)[0] == expected, "ngram"


@pytest.mark.parametrize("kind", ["parallelspec-medusa", "pard", "lm"])
def test_every_family_runs(target: Target, kind: str) -> None:
    drafter = init_drafter(kind, target, 4, seed=1)
    expected = generate(target, None, None, "greedy", 2)
    assert generate(target, drafter, None, "greedy", 2) == expected
