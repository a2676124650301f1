"""Benchmark of draft_inputs: embedding and one or three tapped features joined, K masks."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import Case, Model, bf16, i32, main, nbytes, weights


def cases(m: Model, P: int) -> Iterator[Case]:
    """P accepted rows and P - 2 masks of one slot."""
    for taps in (1, 3):
        J, F = max(P - 2, 0), taps * m.M
        ids_BP, features_BPF = i32(torch.randint(0, m.V, (1, P))), bf16(1, P, F)
        masks_JM, out_BNM = bf16(J, m.M), bf16(1, P + J, m.M)
        rows = (ids_BP, features_BPF, i32([P]), masks_JM)
        table = {"table_VM": weights(m.V, m.M)}

        def make(W: int = m.M + F, rows: tuple = rows, out_BNM: torch.Tensor = out_BNM, table: dict = table) -> tuple:
            return (*rows, weights(m.M, W), out_BNM), table

        fc = 2 * m.M * (m.M + F)
        size = nbytes(features_BPF, masks_JM, out_BNM) + fc
        yield Case(m.name, P, f"{m.M + F} -> {m.M}", make, size, weights=fc)


if __name__ == "__main__":
    main("draft_inputs", cases, rows=(1, 5, 9, 17))
