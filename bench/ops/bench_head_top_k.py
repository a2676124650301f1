"""Benchmark of head_top_k: greedy target token, sampled target token, ranked draft candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import Case, Model, bf16, i32, main


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows through the whole head."""
    w_VM, x_RM = bf16(m.V, m.M), bf16(R, m.M)
    noise = {
        "temperature_R": torch.full((R,), 0.8),
        "noise_QV": torch.randn(R, m.V),
        "noise_row_R": i32(torch.arange(R)),
    }
    for name, C, options in (("greedy", 1, {}), ("sampled", 1, noise), ("top 8", 8, {})):
        ids_RC, scores_RC = torch.empty(R, C, dtype=torch.int32), torch.empty(R, C) if C > 1 else None
        args = (x_RM, w_VM, ids_RC, scores_RC)
        size = w_VM.nbytes + x_RM.nbytes + (R * m.V * 4 if options else 0)
        yield Case(m.name, R, f"{m.M} -> {m.V} {name}", lambda a=args, o=options: (a, o), size)


if __name__ == "__main__":
    main("head_top_k", cases, rows=(1, 8, 64))
