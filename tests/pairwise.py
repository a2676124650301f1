"""Small test matrices: every pair of values of any two axes at least once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """A greedy subset of the full product that still holds every pair of values of two different axes."""
    missing = {
        (i, a, j, b)
        for (i, left), (j, right) in combinations(enumerate(axes), 2)
        for a, b in product(range(len(left)), range(len(right)))
    }
    rows = []
    candidates = list(product(*(range(len(axis)) for axis in axes)))
    while missing:
        best = max(candidates, key=lambda row: len(missing & _pairs(row)))
        missing -= _pairs(best)
        rows.append(tuple(axis[at] for axis, at in zip(axes, best, strict=True)))
    return rows


def _pairs(row: tuple[int, ...]) -> set[tuple[int, int, int, int]]:
    return {(i, a, j, b) for (i, a), (j, b) in combinations(enumerate(row), 2)}
