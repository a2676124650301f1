"""Benchmark of select_tokens: all filters on, with and without log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import Case, Model, i32, main


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows of logits."""
    logits_RV, ids_R = torch.randn(R, m.V) * 3, torch.empty(R, dtype=torch.int32)
    options = {
        "temperature_R": torch.full((R,), 0.8),
        "top_k_R": i32([50] * R),
        "top_p_R": torch.full((R,), 0.9),
        "min_p_R": torch.full((R,), 0.02),
        "noise_QV": torch.randn(R, m.V),
        "noise_row_R": i32(torch.arange(R)),
    }
    outputs = {
        "out_logprob_R": torch.empty(R),
        "out_top_ids_RT": torch.empty(R, 20, dtype=torch.int32),
        "out_top_logprobs_RT": torch.empty(R, 20),
    }
    for name, extra in (("token", {}), ("token + top 20", outputs)):
        every = {**options, **extra}
        call = (logits_RV, ids_R), every
        yield Case(m.name, R, f"{m.V} {name}", lambda c=call: c, 2 * logits_RV.nbytes)


if __name__ == "__main__":
    main("select_tokens", cases, rows=(1, 8, 32))
