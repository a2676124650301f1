"""The emulated matrix kernels as Python functions."""

from __future__ import annotations

import ctypes
from pathlib import Path

from torch import Tensor

from .build import CSRC, shared_library

ORDERS = [(0, 0), (1, 0), (2, 1)]  # of a block's threads: ascending, descending, shuffled with a seed


class Library:
    """tests/cuda/matrix.cu and the kernels behind it."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        sources = [here / "matrix.cu", *(CSRC / "cuda" / f"{op}.cu" for op in ("linear", "draft_forward"))]
        self._loaded = ctypes.CDLL(str(shared_library("matrix", sources)))

    def set_order(self, order: int, seed: int) -> None:
        """How threads take turns from now on."""
        self._loaded.set_order(order, seed)

    def int64(self, name: str, *args: object) -> int:
        """What a door that cannot fail returns."""
        door = getattr(self._loaded, name)
        door.restype = ctypes.c_int64
        return door(*args)

    def call(self, name: str, *args: object) -> None:
        """Call a door; RuntimeError with its words if it fails."""
        door = getattr(self._loaded, name)
        door.restype = ctypes.c_char_p
        if error := door(*args):
            raise RuntimeError(error.decode())


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Of a contiguous tensor's data."""
    assert tensor is None or tensor.is_contiguous()
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
