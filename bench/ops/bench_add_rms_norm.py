"""Benchmark of add_rms_norm."""

from __future__ import annotations

from collections.abc import Iterator

from ._bench import Case, Model, bf16, main, nbytes


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows of the model's width."""
    x_RM, residual_RM, out_RM, weight_M = bf16(R, m.M), bf16(R, m.M), bf16(R, m.M), bf16(m.M)
    args = (x_RM, residual_RM, weight_M, 1e-5, out_RM)
    moved = nbytes(x_RM, residual_RM, residual_RM, weight_M, out_RM)
    yield Case(m.name, R, f"{R} x {m.M}", lambda: (args, {}), moved)


if __name__ == "__main__":
    main("add_rms_norm", cases)
