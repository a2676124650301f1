"""Benchmark of cast: bf16 features for an fp32 drafter."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import Case, Model, bf16, main


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows of the model's width."""
    args = (bf16(R, m.M), torch.zeros(R, m.M))
    yield Case(m.name, R, f"{R} x {m.M}", lambda: (args, {}), 3 * args[0].nbytes)


if __name__ == "__main__":
    main("cast", cases)
