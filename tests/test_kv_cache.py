"""KVCache: its layout, and views of layers and slots."""

from __future__ import annotations

import torch

from pspec_rt.kv_cache import KVCache


def cache_of() -> KVCache:
    return KVCache.allocate(3, 2, 4, 10, 8, dtype=torch.bfloat16)


def test_layout() -> None:
    cache = cache_of()
    assert cache.kv_L2BGSE.shape == (3, 2, 2, 4, 10, 8) and cache.kv_L2BGSE.is_contiguous()
    assert (cache.slots, cache.capacity, cache.nbytes) == (2, 10, 3 * 2 * 2 * 4 * 10 * 8 * 2)
    assert not cache.kv_L2BGSE.any()


def test_layers_are_contiguous_views() -> None:
    cache = cache_of()
    k_BGSE, v_BGSE = cache.layer(1)
    k_BGSE[1, 2, 3, 4], v_BGSE[0, 3, 2, 1] = 5, 7
    assert cache.kv_L2BGSE[1, 0, 1, 2, 3, 4] == 5 and cache.kv_L2BGSE[1, 1, 0, 3, 2, 1] == 7
    assert k_BGSE.is_contiguous() and v_BGSE.is_contiguous()
    assert cache.layer(1)[0] is k_BGSE  # made once, not every round


def test_a_slot_is_a_cache_on_the_same_memory() -> None:
    cache = cache_of()
    slot = cache.slot(1)
    assert (slot.slots, slot.capacity) == (1, 10)
    k_BGSE, v_BGSE = slot.layer(2)
    assert k_BGSE.is_contiguous() and v_BGSE.is_contiguous()
    v_BGSE.fill_(3)
    assert (cache.kv_L2BGSE[2, 1, 1] == 3).all()
    assert cache.kv_L2BGSE.sum() == 3 * v_BGSE.numel()
