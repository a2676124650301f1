"""Benchmark of blend_candidates: proposals of a lookup among candidates; rows are drafted tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import MODELS, Case, Model, main


def cases(m: Model, K: int) -> Iterator[Case]:
    """K depths of C candidates; the model does not matter."""
    if m is not MODELS[0]:
        return
    for B, C in ((1, 1), (1, 8), (8, 8)):
        scores_BKC = torch.randn(B, K, C).log_softmax(2).sort(2, descending=True).values
        ids_BKC = torch.arange(B * K * C, dtype=torch.int32).view(B, K, C)
        proposed = torch.randint(0, B * K * C, (B, K), dtype=torch.int32), torch.full((B, K), -0.3)
        args = (*proposed, ids_BKC, scores_BKC)
        yield Case("any", K, f"{B} slots, {C} of each", lambda a=args: (a, {}), 2 * 8 * ids_BKC.numel())


if __name__ == "__main__":
    main("blend_candidates", cases, rows=(4, 8))
