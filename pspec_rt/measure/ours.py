"""pspec_rt as a contender: plain or speculative, by the Generator it is given."""

from __future__ import annotations

import time

from ..generator import Generator
from .contender import Answer


class PspecContender:
    """Measures `Generator.generate` as a user calls it, text decoding included."""

    def __init__(self, name: str, generator: Generator, temperature: float, seed: int) -> None:
        self.name = name
        self.generator = generator
        self._temperature, self._seed = temperature, seed

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        start = time.perf_counter()
        output = self.generator.generate(
            prompt_ids,
            max_new_tokens=max_new_tokens,
            temperature=self._temperature,
            top_k=0,
            top_p=1.0,
            min_p=0.0,
            seed=self._seed,
        )
        seconds = time.perf_counter() - start
        if output.finish_reason == "interrupted":  # half an answer must not be counted
            raise KeyboardInterrupt
        return Answer(output.token_ids, seconds, output.text, output.stats)
