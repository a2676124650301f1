"""Arena: where weights live; on a CPU in large blocks on huge pages, because a pass streams all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops._dispatch import native

_BLOCK = 64 << 20
_ALIGN = 64  # a cache line, and the widest vector


class Arena:
    """Hands out uninitialised tensors on one device.

    With ordinary 4 KB pages the address translation of a weight stream costs about as much as the stream; so on a CPU
    tensors are cut from blocks of which the system is asked for huge pages (madvise, where there is such a thing).
    A block lives as long as one of its tensors.

    Args:
        block: bytes of a block; larger tensors get one of their own.
    """

    def __init__(self, device: torch.device | str, block: int = _BLOCK) -> None:
        self.device, self._block_size = torch.device(device), block
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def empty(self, *size: int, dtype: torch.dtype) -> Tensor:
        """A contiguous tensor; on device "meta" a shape alone."""
        if self.device.type != "cpu":
            return torch.empty(size, dtype=dtype, device=self.device)
        nbytes = torch.Size(size).numel() * dtype.itemsize
        if self._used + nbytes > len(self._block):
            self._block = torch.empty(max(self._block_size, nbytes), dtype=torch.uint8)
            self._used = 0
            if native.available:
                native.use_huge_pages(self._block.data_ptr(), len(self._block))
        piece = self._block[self._used : self._used + nbytes]
        self._used += -(-nbytes // _ALIGN) * _ALIGN
        return piece.view(dtype).view(size)

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor in this memory."""
        return self.empty(*tensor.shape, dtype=tensor.dtype).copy_(tensor)
