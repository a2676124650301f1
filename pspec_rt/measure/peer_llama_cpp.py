"""llama.cpp as a peer, through llama-cpp-python: the 4-bit file that the demo checkpoint was converted from."""

from __future__ import annotations

import importlib
import time
from typing import Any

from ..errors import ConfigError
from ..hub import demo_folder, demo_gguf
from .contender import Answer, Contender
from .peers import PeerSetup


class LlamaCppContender:
    """`llama_cpp.Llama.generate`, greedy, without penalties, every prompt from an empty cache.

    Ids mean the same on both sides: the conversion keeps the vocabulary's order.
    """

    name = "llama_cpp_4bit"

    def __init__(self, setup: PeerSetup) -> None:
        llama_cpp: Any = importlib.import_module("llama_cpp")  # optional, checked by check_peers
        self._model = llama_cpp.Llama(
            model_path=str(demo_gguf()),
            n_ctx=0,  # the model's own
            n_threads=setup.threads,
            n_threads_batch=setup.threads,
            verbose=False,
        )
        self._eos_ids = frozenset(setup.eos_ids)

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        self._model.reset()  # else it would keep what this prompt has in common with the last one
        start = time.perf_counter()
        token_ids: list[int] = []
        for token_id in self._model.generate(prompt_ids, temp=0.0, repeat_penalty=1.0):
            token_ids.append(int(token_id))
            if token_id in self._eos_ids or len(token_ids) == max_new_tokens:
                break
        return Answer(token_ids, time.perf_counter() - start)


def make(setup: PeerSetup) -> Contender:
    """Load the demo model's GGUF file; ConfigError for another checkpoint, of which there is none, or off the CPU."""
    if setup.checkpoint.resolve() != demo_folder().resolve():
        raise ConfigError(
            f"peer 'llama.cpp' runs the demo model's GGUF file, not {setup.checkpoint}; leave out --target or the peer"
        )
    if setup.device.type != "cpu":
        raise ConfigError(f"peer 'llama.cpp' is measured on the CPU, not on {setup.device}; add --device cpu")
    return LlamaCppContender(setup)
