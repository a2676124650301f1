"""cast in plain PyTorch: values in another dtype."""

from __future__ import annotations

from torch import Tensor


def cast(x: Tensor, out: Tensor) -> None:
    """out = x; see `pspec_rt.ops.cast`."""
    out.copy_(x)
