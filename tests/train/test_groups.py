"""The rows of group-wise training: which there are, where they stand, what they predict and what they see."""

from __future__ import annotations

import pytest
import torch

from pspec_rt.train.batch import RowRule
from pspec_rt.train.groups import IGNORED, kept_depths, lay_out, masks_behind, sees
from tests.train.setups import batch_of, drafter, texts


def test_rows_of_a_small_layout() -> None:
    layout = lay_out([3, 2], torch.tensor([2, 0, 1, 0, 2]))
    rows = list(zip(layout.rows.text.tolist(), layout.rows.anchor.tolist(), layout.rows.depth.tolist(), strict=True))
    real = [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 1, 0)]
    assert rows == real + [(0, 0, 1), (0, 0, 2), (0, 2, 1), (1, 1, 1), (1, 1, 2)]
    assert layout.positions_R.tolist() == [0, 1, 2, 0, 1, 1, 2, 3, 2, 3]
    assert layout.anchor_J.tolist() == [0, 0, 2, 4, 4]
    assert layout.first_mask_T == [5, 7, 7, 8, 8, 10] and layout.texts == [slice(0, 3), slice(3, 5)]


def test_a_row_sees_real_rows_up_to_its_anchor_and_its_own_group() -> None:
    layout = lay_out([4, 3], torch.tensor([2, 1, 0, 2, 1, 2, 0]))
    rows = list(zip(layout.rows.text.tolist(), layout.rows.anchor.tolist(), layout.rows.depth.tolist(), strict=True))
    for i, (text, anchor, depth) in enumerate(rows):
        expected = [
            t == text and ((d == 0 and a <= anchor) or (d > 0 and a == anchor and d <= depth)) for t, a, d in rows
        ]
        assert sees(layout.rows[torch.tensor([i])], layout.rows).tolist() == expected


@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize("masks", [0, 1, 3, 6])
@pytest.mark.parametrize("prompts", [True, False])
def test_labels_are_the_tokens_inference_predicts(lead: int, masks: int, prompts: bool) -> None:
    family = "parallelspec-eagle" if lead == 2 else "pard"
    rows = texts(3)
    batch = batch_of(drafter(family, k=masks + 1), rows, RowRule(lead, masks, prompts=prompts))
    fields = batch.layout.rows
    for text, anchor, depth, label in zip(fields.text, fields.anchor, fields.depth, batch.labels_R, strict=True):
        ids, place = rows[int(text)].ids, int(anchor + depth) + lead
        wanted = place < len(ids) and (prompts or place >= rows[int(text)].prompt)
        assert label == (ids[place] if wanted else IGNORED)
        assert depth == 0 or place < len(ids), "a mask with nothing to predict is not laid out"
    # Every token that can be predicted is, by every depth that a text's start allows.
    for depth in range(masks + 1):
        found = sorted(batch.labels_R[(fields.depth == depth) & (batch.labels_R >= 0)].tolist())
        there = [text.ids[max(lead + depth, 0 if prompts else text.prompt) :] for text in rows]
        assert found == sorted(token for part in there for token in part)


def test_masks_behind_the_last_rows_and_the_prompt() -> None:
    assert masks_behind(8, 0, 2, 3).tolist() == [3, 3, 3, 2, 1, 0, -1]
    assert masks_behind(8, 6, 2, 3).tolist() == [-1, 3, 3, 2, 1, 0, -1]
    assert masks_behind(5, 0, 1, 0).tolist() == [0, 0, 0, 0]


def test_dropping_keeps_nested_shares() -> None:
    kept = kept_depths(40_000, 5, 0.6, 0.2, torch.Generator().manual_seed(3))
    for depth in range(1, 6):
        share = (kept >= depth).float().mean()
        assert abs(share - max(0.6**depth, 0.2)) < 0.01
    assert kept_depths(9, 3, 1.0, 0.0, torch.Generator()).tolist() == [3] * 9


def test_dropped_batches_differ_only_in_rows() -> None:
    module, rows = drafter("parallelspec-eagle"), texts(2)
    whole = batch_of(module, rows)
    part = batch_of(module, rows, RowRule(2, 3, keep=0.5, least=0.1))
    assert part.layout.reals == whole.layout.reals and len(part.labels_R) < len(whole.labels_R)
    everything = {tuple(row) for row in _fields(whole)}
    assert {tuple(row) for row in _fields(part)} < everything


def _fields(batch: object) -> list[list[int]]:
    rows = batch.layout.rows  # type: ignore[attr-defined]
    labels = batch.labels_R  # type: ignore[attr-defined]
    return torch.stack([rows.text, rows.anchor, rows.depth, labels], dim=1).tolist()
