"""The draft vocabulary: the tokens a target writes most often, and how much of its text they cover."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .data import Text
from .errors import TrainError


def count_tokens(texts: Iterable[Text], vocab_size: int, prompts: bool = True) -> Tensor:
    """[V] int64: how often each token is written; prompt tokens count a tenth of an answer's (rounded up)."""
    answers, before = torch.zeros(vocab_size, dtype=torch.int64), torch.zeros(vocab_size, dtype=torch.int64)
    for text in texts:
        ids = torch.tensor(text.ids)
        answers += torch.bincount(ids[text.prompt :], minlength=vocab_size)
        before += torch.bincount(ids[: text.prompt], minlength=vocab_size)
    return 10 * answers + (before if prompts else 0)


def choose_vocab(counts_V: Tensor, size: int, always: Iterable[int] = ()) -> Tensor:
    """[size] ascending ids of the most frequent tokens (lowest ids among equals), `always` among them.

    Raises TrainError for a size that is not 1..V.
    """
    V = len(counts_V)
    if not 1 <= size <= V:
        raise TrainError(f"a draft vocabulary of {size} tokens: expected 1..{V}, the target's vocabulary")
    counts_V = counts_V.clone()
    for token in always:
        counts_V[token] = counts_V.max() + 1
    return counts_V.sort(descending=True, stable=True).indices[:size].sort().values


def coverage(ids_D: Tensor, texts: Iterable[Text], vocab_size: int) -> float:
    """Share of the texts' answer tokens that can be drafted."""
    known = torch.zeros(vocab_size, dtype=torch.bool)
    known[ids_D] = True
    answers = torch.cat([torch.tensor(text.ids[text.prompt :]) for text in texts])
    return float(known[answers].float().mean())
