"""What the op tests share: tensor shorthands, thread counts, bit comparison, and trees."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pspec_rt import env
from pspec_rt.ops._dispatch import native

ROWS = (1, 2, 3, 5, 63, 64, 65)
WILD = 2147480000  # in entries the contract calls unused: reading one as an index would crash


def i32(values: Sequence | Tensor) -> Tensor:
    """An int32 tensor."""
    return torch.as_tensor(values, dtype=torch.int32).clone()


def signed(word: int) -> int:
    """A 64-bit pattern as the int64 holding it."""
    return word - (1 << 64) if word >> 63 else word


def ref_of(op: str) -> Callable[..., None]:
    """The definition of an op."""
    return getattr(importlib.import_module(f"pspec_rt.ref.{op}"), op)


def set_threads(count: int) -> None:
    """Set the threads of torch and of the native module."""
    torch.set_num_threads(count)
    if native.available:
        native.set_num_threads(count)


def bits(x: Tensor) -> Tensor:
    """A float tensor as integers: NaN equals itself, -0.0 differs from 0.0."""
    return x.contiguous().view({2: torch.int16, 4: torch.int32}[x.itemsize])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two float tensors hold the same bits."""
    return torch.equal(bits(a), bits(b))


def interpreted() -> bool:
    """Whether the op under test runs in Triton's interpreter (a program takes a millisecond: few, small cases)."""
    return env.triton_interprets() and "triton" in env.forced_backends().values()


def rows_alone() -> int:
    """Rows of `assert_rows_independent` for a kernel with a program per row, whose number can hardly matter."""
    return 18 if interpreted() else 64


def assert_rows_independent(run: Callable[[slice], Tensor], rows: int = 64, at: Iterable[int] = (0, 31, 63)) -> None:
    """`run(slice)` computes those rows alone. A row's bits must not depend on who comes along.

    Prefixes of every length 1..rows, and some rows alone at the front, with 1 and 2 threads. (Interpreted: the lengths
    at which a kernel may take another tile.)
    """
    set_threads(1)
    whole = run(slice(0, rows))
    for count in (1,) if interpreted() else (1, 2):
        set_threads(count)
        for end in [end for end in (1, 16, 17, 33) if end < rows] if interpreted() else range(1, rows + 1):
            assert same_bits(run(slice(0, end)), whole[:end]), f"rows 0..{end}, {count} threads"
        for r in (r for r in at if r < rows):
            assert same_bits(run(slice(r, r + 1)), whole[r : r + 1]), f"row {r}, {count} threads"


def random_parents(N: int, rng: random.Random) -> list[int]:
    """Parents of a random tree, parent index < child index."""
    return [-1, *(rng.randrange(n) for n in range(1, N))]


def words_of(parents: Sequence[int]) -> list[int]:
    """Ancestor words, unsigned."""
    words = [1]
    for n in range(1, len(parents)):
        words.append(words[parents[n]] | 1 << n)
    return words
