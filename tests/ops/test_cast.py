"""cast against torch's own conversion."""

from __future__ import annotations

import pytest
import torch

from pspec_rt import ops

from .cases import same_bits

DTYPES = [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 85), (2, 2, 256), (5, 0)])
def test_every_value_is_rounded_once(backend: str, shape: tuple[int, ...], dtype: torch.dtype, to: torch.dtype) -> None:
    x, out = torch.randn(shape).to(dtype), torch.full(shape, torch.nan, dtype=to)
    ops.cast(x, out)
    assert same_bits(out, x.to(to))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="out"):
        ops.cast(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="x: expected dtype"):
        ops.cast(torch.zeros(2).int(), torch.zeros(2))
