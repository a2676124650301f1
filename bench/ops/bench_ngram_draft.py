"""Benchmark of ngram_draft: histories of several lengths, full of repeats; rows are drafted tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ._bench import MODELS, Case, Model, i32, main


def cases(m: Model, K: int) -> Iterator[Case]:
    """K tokens from histories in buffers of S tokens; the model does not matter."""
    if m is not MODELS[0]:
        return
    for B, S in ((1, 1024), (1, 8192), (8, 8192)):
        args = (i32(torch.randint(0, 50, (B, S))), i32([S - 1] * B), torch.empty(B, K, dtype=torch.int32))
        yield Case("any", K, f"{B} slots of {S}", lambda a=args: (a, {}), args[0].nbytes)


if __name__ == "__main__":
    main("ngram_draft", cases, rows=(4, 8))
