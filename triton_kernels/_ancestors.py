"""Ancestor words and cache rows in Triton: popcount, the k-th set bit, and where a cache keeps a logical row."""

from __future__ import annotations

import triton.language as tl

from ._common import device_function


@device_function
def bit_counts(word):
    """Set bits in each 2, 4, 8, 16 and 32-bit field of 64-bit words."""
    # Signed shifts copy the sign into bits that the masks drop.
    in2 = (word & 0x5555555555555555) + ((word >> 1) & 0x5555555555555555)
    in4 = (in2 & 0x3333333333333333) + ((in2 >> 2) & 0x3333333333333333)
    in8 = (in4 + (in4 >> 4)) & 0x0F0F0F0F0F0F0F0F
    in16 = (in8 + (in8 >> 8)) & 0x00FF00FF00FF00FF
    in32 = (in16 + (in16 >> 16)) & 0x0000FFFF0000FFFF
    return in2, in4, in8, in16, in32


@device_function
def popcount(word):
    """Number of set bits, int32."""
    in2, in4, in8, in16, in32 = bit_counts(word)
    return ((in32 + (in32 >> 32)) & 0x7F).to(tl.int32)


@device_function
def select_bit(word, in2, in4, in8, in16, in32, k):
    """Index of the k-th set bit of a word with these `bit_counts`, k from 0; where there is none, one below 64."""
    rest, at = k.to(tl.int64), (k * 0).to(tl.int64)
    rest, at = _descend(rest, at, in32, 32, 0x3F)
    rest, at = _descend(rest, at, in16, 16, 0x1F)
    rest, at = _descend(rest, at, in8, 8, 0xF)
    rest, at = _descend(rest, at, in4, 4, 0x7)
    rest, at = _descend(rest, at, in2, 2, 0x3)
    rest, at = _descend(rest, at, word, 1, 0x1)
    return at.to(tl.int32)


@device_function
def _descend(rest, at, counts, width: tl.constexpr, mask: tl.constexpr):
    """Go to the upper field of `width` bits where the lower one, at bit `at`, ends before the rest is used up."""
    below = (counts >> at) & mask
    upper = rest >= below
    return tl.where(upper, rest - below, rest), tl.where(upper, at + width, at)


@device_function
def row_offset(row, used, table, stride_page, E: tl.constexpr, PAGE: tl.constexpr):
    """Elements from the first row of a slot's cache to others; with pages, from the first page of all."""
    if PAGE:
        page = tl.load(table + row // PAGE, mask=used, other=0)
        return page.to(tl.int64) * stride_page + row % PAGE * E
    else:
        return row * E
