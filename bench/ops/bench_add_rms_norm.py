"""Benchmark of add_rms_norm."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

from ._bench import Case, Model, bf16, main, nbytes


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows of the model's width."""
    x_RM, residual_RM, out_RM, weight_M = bf16(R, m.M), bf16(R, m.M), bf16(R, m.M), bf16(m.M)
    args = (x_RM, residual_RM, weight_M, 1e-5, out_RM)
    moved = nbytes(x_RM, residual_RM, residual_RM, weight_M, out_RM)
    yield Case(m.name, R, f"{R} x {m.M}", lambda: (args, {}), moved, torch=plain)


def plain(x_RM: Tensor, residual_RM: Tensor, weight_M: Tensor, eps: float, out_RM: Tensor) -> Tensor:
    """The same with torch's fused norm, which rounds once less."""
    return F.rms_norm(residual_RM.add_(x_RM), weight_M.shape, weight_M, eps)


if __name__ == "__main__":
    main("add_rms_norm", cases)
