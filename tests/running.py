"""Running an engine to the end, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from pspec_rt.engine import Engine
from pspec_rt.sampling import SamplingParams


def run(engine: Engine, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[list[int]]:
    """Tokens of every prompt; all are admitted at once (max_batch >= len(prompts)) and released at the end."""
    slots = [engine.add(prompt, p) for prompt, p in zip(prompts, params, strict=True)]
    tokens: dict[int, list[int]] = {slot: [] for slot in slots}
    running = set(slots)
    while running:
        for output in engine.step():
            if output.slot in running:
                tokens[output.slot] += output.token_ids
                if output.finish_reason is not None:
                    running.discard(output.slot)
    for slot in slots:
        engine.release(slot)
    return [tokens[slot] for slot in slots]
