"""Benchmark of silu_mul."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ._bench import Case, Model, bf16, main, nbytes


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows of the MLP's width."""
    args = (bf16(R, 2 * m.I), bf16(R, m.I))
    yield Case(m.name, R, f"{R} x {m.I}", lambda: (args, {}), nbytes(*args), torch=plain)


def plain(gate_up_R2I: Tensor, out_RI: Tensor) -> None:
    """As a model writes it, which rounds silu(gate) once more."""
    gate_RI, up_RI = gate_up_R2I.chunk(2, dim=1)
    torch.mul(F.silu(gate_RI), up_RI, out=out_RI)


if __name__ == "__main__":
    main("silu_mul", cases)
