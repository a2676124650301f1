"""Hugging Face transformers as a peer: greedy `generate` on the same checkpoint, ids, dtype and end tokens."""

from __future__ import annotations

import time
from typing import Any

import torch

from .contender import Answer, Contender
from .peers import PeerSetup


class TransformersContender:
    """`AutoModelForCausalLM.generate` with its key-value cache; generation_config.json plays no part.

    `options` are further arguments of `generate`.
    """

    def __init__(self, setup: PeerSetup, name: str = "transformers", **options: Any) -> None:
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils import logging

        logging.disable_progress_bar()  # it would draw without a terminal, too
        model: Any = AutoModelForCausalLM.from_pretrained(setup.checkpoint, dtype=setup.dtype)
        model.generation_config = GenerationConfig(do_sample=False, use_cache=True)
        self.name = name
        self._model = model.to(setup.device).eval()
        self._options = options
        if setup.eos_ids:
            self._options |= {"eos_token_id": list(setup.eos_ids), "pad_token_id": setup.eos_ids[0]}

    @torch.inference_mode()
    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        start = time.perf_counter()
        input_ids = torch.tensor([prompt_ids], device=self._model.device)
        output = self._model.generate(
            input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=max_new_tokens, **self._options
        )
        token_ids = output[0, len(prompt_ids) :].tolist()  # also waits for the device
        return Answer(token_ids, time.perf_counter() - start)


def make(setup: PeerSetup) -> Contender:
    """Load the model; the library is a dependency of pspec_rt itself."""
    return TransformersContender(setup)
