"""Everything a round touches lies on the target's device; shown on device "meta", where tensors have no data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pspec_rt.drafters.new import init_drafter
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.models import Target
from pspec_rt.models.target import empty_decoder
from pspec_rt.sampling import SamplingParams
from pspec_rt.step import decode_round
from tests.tiny import tiny_target

META = torch.device("meta")
SAMPLINGS = {
    "greedy": SamplingParams(8),
    "noise": SamplingParams(8, temperature=0.8),
    "filtered": SamplingParams(8, temperature=0.8, top_k=5, logprobs=3),
}


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, copies and numbers apart, as every real device does."""

    COPIES = ("aten::copy_", "aten::_to_copy")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()]
        devices = {x.device.type for x in tensors}
        if len(devices) > 1 and func._schema.name not in self.COPIES:
            raise AssertionError(f"{func.name()} of tensors on {sorted(devices)}")
        return func(*args, **(kwargs or {}))


def on_meta(target: Target) -> Target:
    """The same model without data."""
    return replace(target, decoder=empty_decoder(target.config, target.dtype, META), device=META)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(
    "kind, tree",
    [
        ("none", None), ("ngram", "chain"), ("parallelspec-eagle", "best-first:9"), ("parallelspec-medusa", "medusa"),
        ("pard", "chain"), ("lm", "chain"),
    ],
)  # fmt: skip
def test_prefill_and_round_stay_on_the_device(kind: str, tree: str | None, sampling: str) -> None:
    target = on_meta(tiny_target())
    parts = {"draft_vocab": 50, "parts": ("bias", "head", "anchor_map")} if kind == "parallelspec-eagle" else {}
    drafter = {"none": None, "ngram": NgramDrafter()}.get(kind, kind)
    with torch.inference_mode(), OneDevice():
        if isinstance(drafter, str):
            drafter = init_drafter(kind, target, 4, **parts)
        engine = Engine(target, drafter, max_batch=2, max_length=96, tree=tree, prefill_chunk=8)
        slot = engine.add(list(range(4, 24)), SAMPLINGS[sampling])
        engine._take_in(slot, engine._running(slot), all_chunks=True)
        engine.state.mode = SAMPLINGS[sampling].mode
        decode_round(engine.state, engine.decoder, drafter)
    strays = [name for name, tensor in engine.state.buffers() if tensor.device != META]
    assert not strays
