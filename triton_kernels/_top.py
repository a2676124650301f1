"""The largest values of a row, the lowest index first among equals: 64-bit keys that order both at once."""

from __future__ import annotations

import triton.language as tl

from ._common import device_function

# Below every value's, -inf's included; in place of one where there is none.
NO_ORDER, NO_KEY = tl.constexpr(-(1 << 31)), tl.constexpr(-(1 << 63))


@device_function
def not_nan(value):
    """value, or -inf for NaN."""
    return tl.where(value == value, value, float("-inf"))


@device_function
def finite(value):
    """value, or 0 for an infinity: what may be subtracted without making a NaN."""
    return tl.where(tl.abs(value) == float("inf"), 0.0, value)


@device_function
def ordered(value):
    """int32 in the order of fp32 values without NaN; -0.0 and 0.0 become the same number."""
    bits = (value + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@device_function
def value_of(order):
    """The value `ordered` was given (0.0 for -0.0), NaN for NO_ORDER."""
    return tl.where(order < 0, order ^ 0x7FFFFFFF, order).to(tl.float32, bitcast=True)


@device_function
def join(order, index):
    """A key, int64 in the order of (value, -index), from `ordered(value)` and the index in 0..2^31 - 1."""
    return (order.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@device_function
def make_key(value, index):
    """The key of a value without NaN."""
    return join(ordered(value), index)


@device_function
def key_value(key):
    """The value in a key (0.0 for -0.0), NaN for NO_KEY."""
    return value_of((key >> 32).to(tl.int32))


@device_function
def key_index(key):
    """The index in a key."""
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@device_function
def empty_top(C: tl.constexpr):
    """A list of C keys below all others, for `insert`."""
    return tl.arange(0, C).to(tl.int64) + NO_KEY


@device_function
def insert(top, keys):
    """The largest keys of top [C] and keys [n], in no order. Costs one round per key that enters."""
    best = tl.max(keys, 0)
    least = tl.min(top, 0)
    while best > least:
        top = tl.where(top == least, best, top)
        keys = tl.where(keys == best, NO_KEY, keys)
        best = tl.max(keys, 0)
        least = tl.min(top, 0)
    return top


@device_function
def ranks(top):
    """Place of each of these distinct keys when sorted in descending order."""
    return tl.sum((top[None, :] > top[:, None]).to(tl.int32), 1)
