"""A round, and whole generations, with every op that has a Triton kernel on it: token for token what `ref` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from pspec_rt import ops
from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.new import init_drafter
from pspec_rt.engine import Engine
from pspec_rt.models.target import Target
from pspec_rt.ops._dispatch import REGISTRY
from pspec_rt.sampling import SamplingParams
from pspec_rt.scratch import scratch_of
from pspec_rt.step import decode_round
from pspec_rt.tree import TreeSpec
from tests.oracle import OracleDrafter
from tests.running import run
from tests.tiny import tiny_target

KERNELS = sorted(name for name, op in REGISTRY.items() if "triton" in op.backends)
PROMPTS = [[5, 9, 2, 7, 5, 9], [11, 3]]
TREE = TreeSpec.best_first(2, 4, 2)
# What a batch needs: the best token alone, noise, or whole logits.
GREEDY = [SamplingParams(4, ignore_eos=True)]
NOISE = [SamplingParams(4, temperature=1.0, seed=7, ignore_eos=True), SamplingParams(3, ignore_eos=True)]
FILTERED = [SamplingParams(4, temperature=0.8, top_p=0.9, top_k=40, seed=8, ignore_eos=True), NOISE[0]]

Use = Callable[[str], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, triton_device: torch.device) -> Iterator[Use]:
    """use("ref") or use("triton"): what engines built from now on run on, the latter as far as there are kernels."""
    if triton_device.type != "cpu":
        pytest.skip("the interpreter's test; on a GPU the bench compares backends")

    def choose(backend: str) -> None:
        monkeypatch.setenv("PSPEC_BACKEND", ",".join(["ref", *(f"{op}:{backend}" for op in KERNELS)]))

    yield choose
    monkeypatch.undo()
    ops.choose_backends("cpu")


def target() -> Target:
    return tiny_target(options=(("num_hidden_layers", 2),))


def drafter(kind: str, texts: list[list[int]]) -> Drafter:
    if kind == "parallelspec-eagle":
        return init_drafter(kind, target(), 2, draft_vocab=40, parts=("bias", "anchor_map"), seed=3)
    known = [prompt + text for prompt, text in zip(PROMPTS, texts, strict=False)]
    return OracleDrafter(kind, known, target().config.vocab_size)


def engine(draft: Drafter | None, batch: int, tree: TreeSpec | None = None) -> Engine:
    return Engine(target(), draft, max_batch=batch, max_length=24, tree=tree, prefill_chunk=8)


def plain(params: list[SamplingParams]) -> list[list[int]]:
    return run(engine(None, len(params)), PROMPTS[: len(params)], params)


def test_one_round(use: Use) -> None:
    """Every buffer of the state: integers equal, activations close."""
    states = []
    for backend in ("ref", "triton"):
        use(backend)
        running = engine(drafter("parallelspec-eagle", []), 2, TREE)
        assert all(running.backends[op] == backend for op in KERNELS)
        for prompt, params in zip(PROMPTS, FILTERED, strict=True):
            running.add(prompt, params)
        running.step()
        states.append(dict(running.state.buffers()))
    expected, got = states
    for name, tensor in expected.items():
        if name.startswith(("work.", "drafter.work.")):
            continue  # left over from whatever ran last
        if tensor.is_floating_point():
            torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize(
    "kind, tree, params",
    [
        ("parallelspec-eagle", TREE, GREEDY),
        ("good", TreeSpec.chain(3), NOISE),
        ("good", TreeSpec.static([(0, 0), (1,)]), FILTERED),
    ],
    ids=["greedy", "noise", "filtered"],
)
def test_a_generation(use: Use, kind: str, tree: TreeSpec, params: list[SamplingParams]) -> None:
    use("ref")
    expected = plain(params)
    use("triton")
    speculative = engine(drafter(kind, expected), len(params), tree)
    assert run(speculative, PROMPTS[: len(params)], params) == expected


def test_launches_do_not_depend_on_data(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a captured graph would hold, grids, addresses and numbers, is the same in two rounds on different data."""
    from triton.runtime.interpreter import GridExecutor

    launches: list[tuple[object, ...]] = []
    run_kernel = GridExecutor.__call__

    def recorded(kernel: GridExecutor, *args: object, **options: object) -> None:
        values = [*args, *options.items()]
        host = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in values]
        launches.append((kernel.fn.__name__, kernel.grid, *host))
        run_kernel(kernel, *args, **options)

    use("triton")
    running = engine(drafter("parallelspec-eagle", []), 2, TREE)
    for prompt, params in zip(PROMPTS, NOISE, strict=True):
        running.add(prompt, params)
    running.step()
    monkeypatch.setattr(GridExecutor, "__call__", recorded)
    rounds = []
    for _ in range(2):
        launches.clear()
        with torch.inference_mode(), scratch_of(running._scratch):
            decode_round(running.state, running.decoder, running.drafter)
        rounds.append(list(launches))
    assert rounds[0] == rounds[1] and len(rounds[0]) > 20


@pytest.mark.full
@pytest.mark.parametrize("params", [GREEDY, NOISE, FILTERED], ids=["greedy", "noise", "filtered"])
def test_plain_decoding(use: Use, params: list[SamplingParams]) -> None:
    use("ref")
    expected = plain(params)
    use("triton")
    assert plain(params) == expected
