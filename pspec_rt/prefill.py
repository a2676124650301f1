"""Prefill: a prompt into one slot's caches, chunk by chunk, so that a joining request holds up others only briefly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .drafters.base import Drafter
from .models.decoder import Decoder
from .state import DecodeState

_TILE = 16  # rows that cost as much as one


def prefill(
    state: DecodeState, target: Decoder, drafter: Drafter | None, slot: int, prompt: Sequence[int], chunk: int
) -> Iterator[int]:
    """Write the KV of all prompt tokens but the newest into `slot`; yields how many chunks are left, at the end 0.

    Chunks start at multiples of `chunk`, and where a row's bits depend on how many rows run with it they are padded to
    it; so a prompt's bits depend neither on the other slots nor on how much of it ran before. The newest token is the
    bonus token of the first round. The slot must be idle.
    """
    device = state.device
    known = len(prompt) - 1  # positions to fill
    multiple = min(chunk, _TILE) if target.prefills_exactly(device.type) else chunk
    padded = torch.full((-(-known // chunk) * chunk + 1,), -1, dtype=torch.int32, device=device)
    padded[: len(prompt)] = torch.tensor(prompt, dtype=torch.int32, device=device)
    features_TF = torch.zeros(chunk, state.shape.F, dtype=state.dtype, device=device) if state.shape.F else None
    cache = state.cache.slot(slot)
    state.features_BPF[slot].zero_()
    for start in range(0, known, chunk):
        end = start + min(chunk, -(-(known - start) // multiple) * multiple)
        ids_T, next_ids_T = padded[start:end], padded[start + 1 : end + 1]
        chunk_features_TF = None if features_TF is None else features_TF[: end - start]
        target.prefill_chunk(ids_T, start, cache, state.work, chunk_features_TF)
        if drafter is not None:
            drafter.prefill(state, slot, start, ids_T, next_ids_T, chunk_features_TF)
        # A round may run for the other slots before the next chunk: its scratch rows for this slot land after `start`.
        state.length_B[slot] = min(start + chunk, known) + 1
        if start + chunk < known:
            yield -(-(known - start) // chunk) - 1
    if features_TF is not None and known:
        state.features_BPF[slot, 0] = features_TF[(known - 1) % chunk]
    yield 0
