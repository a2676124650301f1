"""DraftRows: prefix, positions, ancestor words and predicting rows against their definition."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from pspec_rt.drafters.base import DraftRows

MASK64 = (1 << 64) - 1


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


@given(slots())
def test_rows_follow_their_definition(case: tuple[int, int, int, list[tuple[int, int]]]) -> None:
    K, masks, shift, pairs = case
    P, N, B = K + 1, K + 1 + masks, len(pairs)
    state = SimpleNamespace(
        shape=SimpleNamespace(B=B, P=P),
        device=torch.device("cpu"),
        length_B=torch.tensor([length for length, _ in pairs], dtype=torch.int32),
        count_B=torch.tensor([count for _, count in pairs], dtype=torch.int32),
    )
    rows = DraftRows(state, masks, shift)
    rows.fill(state)
    for b, (length, count) in enumerate(pairs):
        # Tokens at length-count .. length-1 are new; token p has its row at position p + shift. A token whose row
        # would lie before the text (the only one of a one-token prompt, shifted) has none.
        new = [p + shift for p in range(length - count, length)]
        anchor = length - 1 + shift
        prefix = max(anchor - count + 1, 0)
        real = set(range(count)) if not new or new[0] >= 0 else set()
        assert rows.prefix_B[b] == prefix
        for n in range(N):
            word = int(rows.words_BN[b, n]) & MASK64
            seen = {i for i in range(64) if word >> i & 1}
            position = int(rows.positions_BN[b, n])
            if n in real:
                assert position == new[n] == prefix + n
                assert seen == set(range(n + 1))
            elif n >= P:
                assert position == max(anchor + 1 + n - P, 0)
                assert seen == real | set(range(P, n + 1))
            else:
                assert n in seen and not seen & {i for i in range(P) if i > n}
        take = [int(row) - b * N for row in rows.take_BK[b]]
        assert take == [max(count - 1, 0), *range(P, N)]
