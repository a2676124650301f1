"""Benchmark of embed: random rows of the embedding table."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ._bench import Case, Model, bf16, i32, main


def cases(m: Model, R: int) -> Iterator[Case]:
    """R token ids."""
    table_VM = bf16(m.V, m.M)
    args = (i32(torch.randint(0, m.V, (R,))), table_VM, bf16(R, m.M))
    yield Case(m.name, R, f"{m.V} x {m.M}", lambda: (args, {}), 2 * args[2].nbytes, torch=plain)


def plain(ids_R: Tensor, table_VM: Tensor, out_RM: Tensor) -> None:
    """Without the rule for padding."""
    torch.index_select(table_VM, 0, ids_R, out=out_RM)


if __name__ == "__main__":
    main("embed", cases)
