"""What the kernels of select_tokens share: distances and masses of tokens, thresholds on a list of them, the pick.

A row's candidates are a list of token ids in ascending order. Its `most` is the largest z = logit / temperature.
"""

from __future__ import annotations

import triton.language as tl

from ._common import device_function
from ._top import NO_KEY, finite, make_key, not_nan, ordered

DISTANCES = tl.constexpr(16)
DIGITS = tl.constexpr(16)  # of a radix search: 4 bits of 32 at a time
MOST_MASS = tl.constexpr((1 << 63) - 1)
UNIT = tl.constexpr(float(1 << 44))  # mass of the most likely token; the sum over 2^18 tokens fits 63 bits


@device_function
def distance_of(i):
    """The i-th distance, growing from 1/8 to 28; the last is infinite and takes in everything."""
    return tl.where(i == DISTANCES - 1, float("inf"), ((i + 1) * (i + 1)).to(tl.float32) * 0.125)


@device_function
def load_logits(logits, at, inside):
    """Logits, -inf for NaN and for what is not `inside`."""
    return not_nan(tl.load(logits + at, mask=inside, other=float("-inf")))


@device_function
def divisor_of(temperature):
    """The temperature, 1 for greedy rows."""
    return tl.where(temperature > 0, temperature, 1.0)


@device_function
def below_most(z, most):
    """How far z lies below the row's maximum; 0 there, also when that is infinite."""
    return tl.where(z == most, 0.0, most - z)


@device_function
def mass_of(below):
    """exp(-below) as a whole number of 2^-44."""
    return (tl.exp(-below) * UNIT).to(tl.int64)


@device_function
def row_maximum(chunk_max, row, chunks, CHUNKS: tl.constexpr):
    """Largest logit of a row, from its chunks'."""
    c = tl.arange(0, CHUNKS)
    return tl.max(tl.load(chunk_max + row * chunks + c, mask=c < chunks, other=float("-inf")), 0)


@device_function
def log_total_of(chunk_max, chunk_sum, row, chunks, most, CHUNKS: tl.constexpr):
    """log of the sum over the row of exp(logit - most)."""
    c = tl.arange(0, CHUNKS)
    inside = c < chunks
    maxima = tl.load(chunk_max + row * chunks + c, mask=inside, other=float("-inf"))
    sums = tl.load(chunk_sum + row * chunks + c, mask=inside, other=0.0)
    return tl.log(tl.sum(sums * tl.exp(maxima - finite(most)), 0))


@device_function
def keeps_all(temperature, k, top_p, min_p, V):
    """Whether a row's token needs no filter: it is greedy, or its filters are off."""
    return (temperature <= 0) | (((k <= 0) | (k >= V)) & (top_p >= 1) & (min_p <= 0))


@device_function
def mass_limit(top_p, total):
    """Smallest whole number not below top_p * total."""
    exact = top_p.to(tl.float64) * total.to(tl.float64)
    whole = exact.to(tl.int64)
    return whole + (whole.to(tl.float64) < exact).to(tl.int64)


@device_function
def narrowest(counts, masses, unfiltered, k, top_p, min_p, V, TOP: tl.constexpr):
    """Index of the distance a list must reach, given how many tokens and how much mass lie within each [DISTANCES].

    Each filter by itself bounds what is kept: the first k, so much mass, exp(-distance) >= min_p. With top_k the first
    k it must be, as top_p takes its share of their mass.
    """
    i = tl.arange(0, DISTANCES)
    by_count = (k > 0) & (k < V)
    fewest = tl.where(unfiltered, 0, tl.where(by_count, k, V + 1))
    least = tl.where(by_count | (top_p >= 1), MOST_MASS, mass_limit(top_p, tl.max(masses, 0)))
    faintest = tl.where(by_count, 0.0, min_p)
    enough = (counts >= fewest) | (masses >= least) | (faintest > tl.exp(-distance_of(i)) * 1.0001)
    enough &= counts >= TOP
    return tl.min(tl.where(enough, i, DISTANCES - 1), 0)


@device_function
def load_listed(logits, listed, length, first, divisor, most, BLOCK: tl.constexpr):
    """A block of the list: ids, z, unsigned numbers in the order of z, distances to the maximum, and what is there."""
    place = first + tl.arange(0, BLOCK)
    inside = place < length
    token = tl.load(listed + place, mask=inside, other=0)
    z = tl.div_rn(load_logits(logits, token, inside), divisor)
    rank = ordered(z).to(tl.uint32, bitcast=True) ^ 0x80000000
    return token, z, rank, below_most(z, most), inside


@device_function
def threshold(logits, listed, length, divisor, most, least, goal, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The largest rank such that the tokens from it on, of those from rank `least` on, reach the goal in number or
    mass; 0 if all together do not."""
    found = tl.full((), 0, tl.uint32)
    unit = tl.full((), 1 << 28, tl.uint32)
    digit = tl.arange(0, DIGITS).to(tl.uint32)
    for _step in range(8):
        limit = found + digit * unit
        sums = tl.full((BLOCK, DIGITS), 0, tl.int64)
        for first in range(0, length, BLOCK):
            token, z, rank, below, inside = load_listed(logits, listed, length, first, divisor, most, BLOCK)
            weight = inside.to(tl.int64)
            if BY_MASS:
                weight = tl.where(inside & (rank >= least), mass_of(below), 0)
            sums += tl.where(rank[:, None] >= limit[None, :], weight[:, None], 0)
        reached = tl.sum((tl.sum(sums, 0) >= goal).to(tl.int32), 0)
        found += tl.maximum(reached - 1, 0).to(tl.uint32) * unit
        unit = unit // 16
    return found


@device_function
def mass_above(logits, listed, length, divisor, most, rank_of, BLOCK: tl.constexpr):
    """Mass of all tokens above a rank, and of one token of that rank (0: there is none)."""
    above = tl.full((BLOCK,), 0, tl.int64)
    one = tl.full((BLOCK,), 0, tl.int64)
    for first in range(0, length, BLOCK):
        token, z, rank, below, inside = load_listed(logits, listed, length, first, divisor, most, BLOCK)
        above += tl.where(inside & (rank > rank_of), mass_of(below), 0)
        one = tl.maximum(one, tl.where(inside & (rank == rank_of), mass_of(below), 0))
    return tl.sum(above, 0), tl.max(one, 0)


@device_function
def pick_filtered(logits, listed, length, total, noise, divisor, most, k, top_p, min_p, V, BLOCK: tl.constexpr):
    """Key of the best token of a list under the filters."""
    least_k = tl.full((), 0, tl.uint32)
    if (k > 0) & (k < V):
        least_k = threshold(logits, listed, length, divisor, most, least_k, k, False, BLOCK)
        total, one = mass_above(logits, listed, length, divisor, most, least_k - 1, BLOCK)  # no rank is 0
    least_p = tl.full((), 0, tl.uint32)
    equals_kept = tl.full((), 1 << 40, tl.int64)  # of the tokens of rank least_p, by ascending id
    if top_p < 1:
        limit = mass_limit(top_p, total)
        least_p = threshold(logits, listed, length, divisor, most, least_k, limit, True, BLOCK)
        above, one = mass_above(logits, listed, length, divisor, most, least_p, BLOCK)
        equals_kept = tl.where(one > 0, (limit - above + one - 1) // tl.maximum(one, 1), equals_kept)
    best = tl.full((BLOCK,), NO_KEY, tl.int64)
    equals = tl.full((), 0, tl.int32)
    for first in range(0, length, BLOCK):
        token, z, rank, below, inside = load_listed(logits, listed, length, first, divisor, most, BLOCK)
        equal = (inside & (rank == least_p)).to(tl.int32)
        kept = inside & (rank >= least_k) & (tl.exp(-below) >= min_p)
        kept &= (rank > least_p) | ((equal > 0) & (equals + tl.cumsum(equal, 0) <= equals_kept))
        value = not_nan(z + tl.load(noise + token, mask=kept, other=0.0))
        best = tl.maximum(best, tl.where(kept, make_key(value, token), NO_KEY))
        equals += tl.sum(equal, 0)
    return tl.max(best, 0)
