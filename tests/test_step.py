"""One round: safe to capture as a graph, and equal to a straight-line reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pspec_rt import ops
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.models.decoder import Decoder
from pspec_rt.ops import _dispatch
from pspec_rt.ops._graph import LaunchGraphs
from pspec_rt.state import RUNNING, DecodeState
from pspec_rt.step import decode_round
from tests.test_lossless import CHUNK, PROMPTS, SAMPLINGS, TREES, make_drafter, make_params, make_tree, plain
from tests.tiny import tiny_target

# What a stream capture cannot hold: reading a value back, and shapes that depend on data.
REFUSED = {
    "aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::nonzero_numpy", "aten::masked_select",
    "aten::unique_dim", "aten::_unique2", "aten::unique_consecutive", "aten::equal", "aten::is_nonzero",
    "aten::repeat_interleave.Tensor", "aten::bincount", "aten::_assert_async",
}  # fmt: skip


class CaptureSafe(TorchDispatchMode):
    """Refuses every operation a captured graph cannot contain."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in REFUSED or func._schema.name in REFUSED:
            raise AssertionError(f"{func.name()} in a round: it waits for the device or its shape depends on data")
        if func._schema.name.startswith(("aten::index", "aten::_index_put")):
            indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else []
            if any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices):
                raise AssertionError(f"{func.name()} with a boolean mask in a round: its shape depends on data")
        return func(*args, **(kwargs or {}))


class NoReadBack(TorchFunctionMode):
    """Refuses the methods that read a tensor's memory without going through the dispatcher."""

    READS = (Tensor.tolist, Tensor.numpy, Tensor.item, Tensor.cpu, Tensor.__array__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.READS:
            raise AssertionError(f"Tensor.{func.__name__}() in a round: it waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def capture_safe() -> Iterator[None]:
    with torch.inference_mode(), NoReadBack(), CaptureSafe():
        yield


class Recorder:
    """Stands in for the native module and notes the host arguments of every launch."""

    def __init__(self, native: Any) -> None:
        self._native, self.calls = native, []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        launch = getattr(self._native, name)

        def recorded(*args: Any) -> Any:
            self.calls.append((name, args))
            return launch(*args)

        return recorded


def running_engine(drafter: str, tree: str, batch: int, sampling: str, k: int = 4) -> Engine:
    """An engine whose slots all run, a round into their texts."""
    target, texts = tiny_target(dtype="bf16"), plain("bf16", sampling)[:batch]
    draft = None if drafter == "none" else make_drafter(drafter, target, PROMPTS[:batch], texts)
    shape = make_tree(tree, k) if draft else None
    engine = Engine(target, draft, max_batch=batch, max_length=96, tree=shape, prefill_chunk=CHUNK)
    for prompt, params in zip(PROMPTS, make_params(sampling, batch), strict=False):
        engine.add(prompt, params)
    while any(code != RUNNING for code in engine.state.finished_B.tolist()):
        engine.step()
    engine.step()
    return engine


CASES = [
    (drafter, tree, batch, sampling)
    for drafter, tree in [
        ("none", "chain"), ("ngram", "chain"), ("parallelspec-eagle", "best-first"), ("parallelspec-eagle", "chain"),
        ("parallelspec-medusa", "static"), ("pard", "chain"), ("lm", "best-first"),
        ("parallelspec-eagle+ngram", "best-first"),
        ("eagle", "static"), ("eagle3", "best-first"), ("p-eagle", "chain"), ("medusa", "static"), ("pard2", "chain"),
        ("dflash", "best-first"),
    ]
    for batch in (1, 3)
    for sampling in SAMPLINGS
]  # fmt: skip


@pytest.mark.parametrize(("drafter", "tree", "batch", "sampling"), CASES)
def test_a_round_is_capture_safe(
    drafter: str, tree: str, batch: int, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = running_engine(drafter, tree, batch, sampling)
    recorder = Recorder(_dispatch.native)
    for module in _native_users():
        monkeypatch.setattr(module, "native", recorder)
    monkeypatch.setattr(LaunchGraphs, "run", lambda graphs, key, launches: launches())  # no replays: see every launch
    owned = {name: tensor.data_ptr() for name, tensor in engine.state.buffers()}
    launches, lengths = [], []
    for _ in range(2):  # different data: the texts have moved on
        recorder.calls = []
        with capture_safe():
            decode_round(engine.state, engine.decoder, engine.drafter)
        launches.append(recorder.calls)
        lengths.append(engine.state.length_B.tolist())
    assert lengths[0] != lengths[1]
    assert launches[0] == launches[1]
    assert recorder.calls, "no native launch was seen"
    assert owned == {name: tensor.data_ptr() for name, tensor in engine.state.buffers()}


def _native_users() -> list[Any]:
    import importlib

    modules = [importlib.import_module(f"pspec_rt.ops.{op}") for op in _dispatch.REGISTRY]
    return [module for module in modules if hasattr(module, "native")]


class Planted(NgramDrafter):
    """A drafter with a fault."""

    def __init__(self, fault: Callable[[DecodeState], object]) -> None:
        super().__init__()
        self.fault = fault

    def draft(self, state: DecodeState) -> None:
        super().draft(state)
        self.fault(state)


@pytest.mark.parametrize(
    "fault",
    [
        lambda s: s.length_B[0].item(),
        lambda s: s.length_B.tolist(),
        lambda s: bool((s.length_B > 3).any()),
        lambda s: (s.length_B > 3).nonzero(),
        lambda s: s.length_B[s.length_B > 3],
        lambda s: torch.masked_select(s.length_B, s.length_B > 3),
    ],
    ids=["item", "tolist", "branch", "nonzero", "mask", "masked_select"],
)
def test_planted_faults_are_seen(fault: Callable[[DecodeState], object]) -> None:
    engine = Engine(tiny_target(dtype="bf16"), Planted(fault), max_length=96, prefill_chunk=CHUNK)
    engine.add(PROMPTS[1], make_params("greedy", 1)[0])
    engine.step()
    with pytest.raises(AssertionError, match="in a round"), capture_safe():
        decode_round(engine.state, engine.decoder, engine.drafter)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_round_equals_the_straight_line(tree: str, sampling: str) -> None:
    """After a speculative round every committed bit of the state is what token-by-token decoding leaves."""
    engine = running_engine("late" if tree == "static" else "flaky", tree, 3, sampling)
    twin = copy.deepcopy(engine.state)
    with torch.inference_mode():
        decode_round(engine.state, engine.decoder, engine.drafter)
        counts = engine.state.count_B.tolist()
        straight_line(twin, engine.decoder, counts)
    assert max(counts) > 1, "nothing was accepted: the test would show nothing"
    _check_path_is_longest(engine.state)
    for state in (engine.state, twin):
        _keep_committed(state)
    assert engine.state.diff(twin) is None


def straight_line(state: DecodeState, target: Decoder, counts: list[int]) -> None:
    """A round written plainly: counts[b] tokens for slot b, one after the other, no tree, no acceptance."""
    B, last_row = state.shape.B, state.shape.S - 1
    word_B1 = torch.ones(B, 1, dtype=torch.int64)
    state.emitted_BP.fill_(-1)
    for b, count in enumerate(counts):
        for i in range(count):
            t = int(state.length_B[b])
            ids_B1 = torch.zeros(B, 1, dtype=torch.int32)
            ids_B1[b] = state.bonus_B[b]
            prefix_B = torch.full((B,), last_row, dtype=torch.int32)  # the other slots' rows go to their last row
            prefix_B[b] = t - 1
            positions_B1 = prefix_B[:, None].contiguous()
            hidden_BM = target.forward(ids_B1, positions_B1, prefix_B, word_B1, state.cache, state.work)
            logits_BV = torch.empty(B, state.shape.V)
            ops.linear(hidden_BM, target.head_VM, logits_BV)
            token = _choose(state, logits_BV[b], b, t)
            state.tokens_BS[b, t] = state.emitted_BP[b, i] = state.bonus_B[b] = token
            state.length_B[b], state.count_B[b] = t + 1, i + 1


def _check_path_is_longest(state: DecodeState) -> None:
    """Each path node is a child of the one before that holds the emitted token, and no child continues the last."""
    for b, count in enumerate(state.count_B.tolist()):
        ids, parents = state.ids_BN[b].tolist(), state.parent_BN[b].tolist()
        path, emitted = state.path_BP[b].tolist()[:count], state.emitted_BP[b].tolist()[:count]
        assert path[0] == 0
        for i in range(1, count):
            assert parents[path[i]] == path[i - 1] and ids[path[i]] == emitted[i - 1]
        assert not any(p == path[-1] and token == emitted[-1] for p, token in zip(parents, ids, strict=True))


def _choose(state: DecodeState, logits_V: Tensor, b: int, t: int) -> int:
    T = float(state.temperature_BN[b, 0])
    if T == 0:
        return int(logits_V.argmax())
    noise = torch.empty(1, 1, state.shape.V)
    ops.gumbel_noise(state.seed_B[b : b + 1].contiguous(), torch.tensor([t], dtype=torch.int32), noise)
    z_V = logits_V / T
    top_p = float(state.top_p_BN[b, 0])
    if top_p < 1:
        order = sorted(range(state.shape.V), key=lambda v: (-float(z_V[v]), v))
        p, before = torch.softmax(z_V, 0), 0.0
        for v in order:
            if before >= top_p:
                z_V[v] = -torch.inf
            before += float(p[v])
    return int((z_V + noise[0, 0]).argmax())


def _keep_committed(state: DecodeState) -> None:
    """Drop what a round may leave behind: scratch rows, and buffers that hold no promise between rounds."""
    for b, length in enumerate(state.length_B.tolist()):
        state.cache.kv_L2BGSE[:, :, b, :, length - 1 :] = 0
    kept = {"tokens_BS", "length_B", "bonus_B", "emitted_BP", "count_B", "cache.kv_L2BGSE", "seed_B"}
    for name, tensor in state.buffers():
        if name not in kept:
            tensor.zero_()
