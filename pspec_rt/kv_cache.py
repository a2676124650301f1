"""KVCache: keys and values of all layers and slots in one tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class KVCache:
    """Row s of a slot holds key and value of the token at position s; rows past the committed ones
    are scratch.

    Attributes:
        kv_L2BGSE: [L, 2, B, G, S, E] in the model's dtype; on the second axis 0 is keys (after
            RoPE), 1 values.
    """

    def __init__(self, kv_L2BGSE: Tensor) -> None:
        self.kv_L2BGSE = kv_L2BGSE
        self._layers = [(layer[0], layer[1]) for layer in kv_L2BGSE]

    @classmethod
    def allocate(
        cls,
        num_layers: int,
        slots: int,
        num_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        empty: Callable[..., Tensor] | None = None,
    ) -> KVCache:
        """A zeroed cache; zeroing also touches every page, so no round pays for page faults.

        `empty` makes the tensor if given, on the device it knows: `Arena.empty`, for huge pages.
        """
        size = (num_layers, 2, slots, num_kv_heads, capacity, head_dim)
        kv_L2BGSE = torch.empty(size, dtype=dtype, device=device) if empty is None else empty(*size, dtype=dtype)
        return cls(kv_L2BGSE.zero_())

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """(k_BGSE, v_BGSE) of one layer; contiguous views."""
        return self._layers[index]

    def slot(self, index: int) -> KVCache:
        """A cache of one slot (B = 1) on the same memory; only its layers are contiguous."""
        return KVCache(self.kv_L2BGSE[:, :, index : index + 1])

    @property
    def slots(self) -> int:
        return self.kv_L2BGSE.shape[2]

    @property
    def capacity(self) -> int:
        """S, rows per slot."""
        return self.kv_L2BGSE.shape[4]

    @property
    def nbytes(self) -> int:
        return self.kv_L2BGSE.nbytes
