"""Benchmark of head_top_k: greedy target token, sampled target token, ranked draft candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ._bench import Case, Model, bf16, i32, main, weights


def cases(m: Model, R: int) -> Iterator[Case]:
    """R rows through the whole head."""
    x_RM, head = bf16(R, m.M), 2 * m.V * m.M
    noise = {
        "temperature_R": torch.full((R,), 0.8),
        "noise_QV": torch.randn(R, m.V),
        "noise_row_R": i32(torch.arange(R)),
    }
    for name, C, options in (("greedy", 1, {}), ("sampled", 1, noise), ("top 8", 8, {})):
        ids_RC, scores_RC = torch.empty(R, C, dtype=torch.int32), torch.empty(R, C) if C > 1 else None

        def make(outs: tuple = (ids_RC, scores_RC), options: dict = options) -> tuple:
            return (x_RM, weights(m.V, m.M), *outs), options

        size = head + x_RM.nbytes + (R * m.V * 4 if options else 0)
        yield Case(m.name, R, f"{m.M} -> {m.V} {name}", make, size, weights=head, torch=plain)


def plain(x_RM: Tensor, w_VM: Tensor, ids_RC: Tensor, scores_RC: Tensor | None, **noise: Tensor) -> None:
    """bf16 logits, then what is asked for; ties fall as they may."""
    value_RV = F.linear(x_RM, w_VM).float()
    if noise:
        value_RV.div_(noise["temperature_R"][:, None]).add_(noise["noise_QV"])
    if scores_RC is None:
        torch.argmax(value_RV, 1, keepdim=True)
        return
    best_RC, _ = value_RV.topk(ids_RC.shape[1], dim=1)
    torch.sub(best_RC, value_RV.logsumexp(1, keepdim=True), out=scores_RC)


if __name__ == "__main__":
    main("head_top_k", cases, rows=(1, 8, 64))
