"""ngram_draft against scanning the history backwards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt import ops
from pspec_rt.ref.ngram_draft import LOG_CHANCE

from .cases import WILD, i32


def lookup(history: list[int], K: int, longest: int, shortest: int) -> tuple[int, list[int]]:
    """How many tokens match, and what is drafted."""
    for n in range(longest, shortest - 1, -1):
        suffix = history[-n:]
        for start in range(len(history) - n - 1, -1, -1):
            if len(suffix) == n and history[start : start + n] == suffix:
                found = history[start + n : start + n + K]
                return n, found + [-1] * (K - len(found))
    return 0, [-1] * K


def draft(histories: list[list[int]], K: int, S: int, **sizes: int) -> list[list[int]]:
    """The op on slots whose history is followed by the beginning of itself, a trap, and by wild ids."""
    tokens, B = [(h + h[:2] + [WILD] * S)[:S] for h in histories], len(histories)
    out_BK = torch.full((B, K), WILD, dtype=torch.int32)
    ops.ngram_draft(i32(tokens), i32([len(h) for h in histories]), out_BK, **sizes)
    ids_BKC, scores_BKC = torch.full((B, K, 3), WILD, dtype=torch.int32), torch.ones(B, K, 3)
    best = ids_BKC[:, :, 0], scores_BKC[:, :, 0]
    ops.ngram_draft(i32(tokens), i32([len(h) for h in histories]), *best, **sizes)
    assert torch.equal(best[0], out_BK)
    assert (ids_BKC[:, :, 1:] == WILD).all() and (scores_BKC[:, :, 1:] == 1).all()
    sizes = {"max_ngram": 4, "min_ngram": 2, **sizes}
    for history, proposed, scores in zip(histories, out_BK.tolist(), best[1].tolist(), strict=True):
        matched, _ = lookup(history, K, sizes["max_ngram"], sizes["min_ngram"])
        chances = [LOG_CHANCE[min(matched + k, len(LOG_CHANCE)) - 1] for k in range(K)]
        expected = [chance if token >= 0 else -torch.inf for token, chance in zip(proposed, chances, strict=True)]
        assert torch.equal(torch.tensor(scores), torch.tensor(expected))
    return out_BK.tolist()


HISTORY = st.lists(st.integers(0, 2), min_size=1, max_size=24)  # three tokens: repeats are everywhere


@given(
    histories=st.lists(HISTORY, min_size=1, max_size=3),
    K=st.integers(1, 6),
    shortest=st.integers(1, 3),
    extra=st.integers(0, 3),
)
def test_rule(backend: str, histories: list[list[int]], K: int, shortest: int, extra: int) -> None:
    sizes = {"max_ngram": shortest + extra, "min_ngram": shortest}
    expected = [lookup(h, K, shortest + extra, shortest)[1] for h in histories]
    assert draft(histories, K, 24, **sizes) == expected


def test_most_recent_of_the_longest(backend: str) -> None:
    history = [1, 2, 3, 50, 9, 2, 3, 60, 1, 2, 3]
    assert draft([history], 2, 16) == [[50, 9]]  # 1 2 3 beats the more recent 2 3
    assert draft([history], 2, 16, max_ngram=2) == [[60, 1]]


def test_a_match_needs_a_token_after_it(backend: str) -> None:
    assert draft([[5, 6]], 3, 8) == [[-1, -1, -1]]
    assert draft([[5]], 3, 8, min_ngram=1) == [[-1, -1, -1]]
    assert draft([[7, 7, 7]], 3, 8) == [[7, -1, -1]]


def test_full_history(backend: str) -> None:
    """The end of the buffer is the end of the history, and nothing wraps around to its beginning."""
    assert draft([[1, 2, 3, 4, 1, 2]], 4, 6) == [[3, 4, 1, 2]]
    assert draft([[2, 9, 2, 2]], 2, 4) == [[-1, -1]]


def test_long_random_history(backend: str) -> None:
    histories = [torch.randint(0, 12, (n,)).tolist() for n in (1, 2, 500, 1000)]
    assert draft(histories, 5, 1000) == [lookup(h, 5, 4, 2)[1] for h in histories]


def test_wrong_arguments_are_named() -> None:
    tokens_BS, length_B = i32([[1, 2]]), i32([2])
    with pytest.raises(ValueError, match="min_ngram"):
        ops.ngram_draft(tokens_BS, length_B, i32([[0]]), max_ngram=2, min_ngram=3)
    with pytest.raises(ValueError, match="length_B"):
        ops.ngram_draft(tokens_BS, i32([1, 2]), i32([[0]]))
    with pytest.raises(ValueError, match="out_scores_BK: strides"):
        ops.ngram_draft(tokens_BS, length_B, i32([[0]]), torch.zeros(1, 1, 2)[:, :, 0])
