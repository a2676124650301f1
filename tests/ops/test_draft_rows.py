"""draft_rows: prefix, positions, ancestor words, ids and predicting rows against their definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pspec_rt import ops

from .cases import WILD, i32

MASK64 = (1 << 64) - 1
MASK_ID, VOCAB = 7, 90


@st.composite
def slots(draw: st.DrawFn) -> tuple[int, int, int, list[tuple[int, int]]]:
    """K, masks, shift and (length, count) of each slot as rounds and admissions leave them."""
    K = draw(st.integers(1, 32))
    masks, shift = draw(st.sampled_from([(K - 1, -1), (K - 1, 0), (0, 0)]))
    pairs = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, K + 1))
        pairs.append((draw(st.integers(max(count, 1), 200)), count))
    return K, masks, shift, pairs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slots())
def test_rows_follow_their_definition(backend: str, case: tuple[int, int, int, list[tuple[int, int]]]) -> None:
    K, masks, shift, pairs = case
    P, N, B = K + 1, K + 1 + masks, len(pairs)
    emitted_BP = torch.randint(0, 100, (B, P)).int()
    for b, (_, count) in enumerate(pairs):
        emitted_BP[b, count:] = -1
    length_B, count_B = i32([length for length, _ in pairs]), i32([count for _, count in pairs])
    ids_BN, positions_BN, source_BN = (torch.full((B, N), WILD, dtype=torch.int32) for _ in range(3))
    words_BN = torch.full((B, N), WILD, dtype=torch.int64)
    prefix_B, take_BK = torch.full((B,), WILD, dtype=torch.int32), torch.full((B, 1 + masks), WILD, dtype=torch.int32)
    ops.draft_rows(
        emitted_BP, count_B, length_B, ids_BN, positions_BN, prefix_B, words_BN, take_BK, source_BN,
        shift=shift, mask_id=MASK_ID, vocab=VOCAB,
    )  # fmt: skip
    for b, (length, count) in enumerate(pairs):
        # Tokens at length-count .. length-1 are new; token p has its row at position p + shift. A token whose row
        # would lie before the text (the only one of a one-token prompt, shifted) has none.
        new = [p + shift for p in range(length - count, length)]
        anchor = length - 1 + shift
        prefix = max(anchor - count + 1, 0)
        real = set(range(count)) if not new or new[0] >= 0 else set()
        assert prefix_B[b] == prefix
        for n in range(N):
            word = int(words_BN[b, n]) & MASK64
            seen = {i for i in range(64) if word >> i & 1}
            position = int(positions_BN[b, n])
            if n in real:
                assert position == new[n] == prefix + n
                assert seen == set(range(n + 1))
            elif n >= P:
                assert position == max(anchor + 1 + n - P, 0)
                assert seen == real | set(range(P, n + 1))
            else:
                assert n in seen and not seen & {i for i in range(P) if i > n}
        assert ids_BN[b].tolist() == [i if i < VOCAB else -1 for i in emitted_BP[b].tolist()] + [MASK_ID] * masks
        assert source_BN[b].tolist() == [*range(P), *[max(count - 1, 0)] * masks]
        assert take_BK[b].tolist() == [max(count - 1, 0), *range(P, N)]


def test_wrong_arguments_are_named() -> None:
    def call(N: int, T: int) -> None:
        ids_BN, words_BN = torch.zeros(1, N, dtype=torch.int32), torch.zeros(1, N, dtype=torch.int64)
        take_BT = torch.zeros(1, T, dtype=torch.int32)
        ops.draft_rows(
            i32([[1, 2]]),
            i32([1]),
            i32([3]),
            ids_BN,
            ids_BN.clone(),
            i32([0]),
            words_BN,
            take_BT,
            ids_BN.clone(),
            shift=0,
        )

    with pytest.raises(ValueError, match="ids_BN"):
        call(65, 64)
    with pytest.raises(ValueError, match="take_BT"):
        call(5, 3)
