"""Benchmark of linear: the weight matrices of one layer, and the output head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ._bench import Case, Model, bf16, main, weights


def cases(m: Model, R: int) -> Iterator[Case]:
    """qkv, output projection, gate+up, down; and the head with fp32 logits."""
    layer = ((m.M, (m.H + 2 * m.G) * m.E), (m.H * m.E, m.M), (m.M, 2 * m.I), (m.I, m.M))
    for I, O in layer:
        yield case(m, R, I, O, torch.bfloat16)
    if R in (1, 8):
        yield case(m, R, m.M, m.V, torch.float32)


def case(m: Model, R: int, I: int, O: int, dtype: torch.dtype) -> Case:
    """R rows times a bf16 [O, I] matrix."""
    size = 2 * (R * I + O * I) + R * O * dtype.itemsize
    x_RI, out_RO = bf16(R, I), torch.empty(R, O, dtype=dtype)

    def make() -> tuple:
        return (x_RI, weights(O, I), out_RO), {}

    return Case(m.name, R, f"{I} -> {O}", make, size, weights=2 * O * I, torch=plain)


def plain(x_RI: Tensor, w_OI: Tensor, out_RO: Tensor) -> Tensor:
    """torch's own, in bf16; also where the op writes fp32 logits, which torch would have to convert."""
    return F.linear(x_RI, w_OI)


if __name__ == "__main__":
    main("linear", cases)
