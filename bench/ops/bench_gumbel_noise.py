"""Benchmark of gumbel_noise: the noise of one round."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ._bench import Case, Model, i32, main


def cases(m: Model, P: int) -> Iterator[Case]:
    """P positions of one slot over the whole vocabulary."""
    out_BPV = torch.empty(1, P, m.V)
    args = (torch.tensor([12345]), i32([1000]), out_BPV)
    yield Case(m.name, P, f"{P} x {m.V}", lambda: (args, {}), out_BPV.nbytes, torch=plain)


def plain(seed_B: Tensor, first_position_B: Tensor, out_BPV: Tensor) -> None:
    """torch's generator, whose numbers depend on what was drawn before."""
    out_BPV.exponential_().log_().neg_()


if __name__ == "__main__":
    main("gumbel_noise", cases, rows=(1, 5, 9, 17))
