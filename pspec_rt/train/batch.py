"""A training batch: the rows of some texts, what enters them and what they should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import Seen
from .groups import IGNORED, Layout, kept_depths, lay_out, masks_behind


@dataclass(frozen=True)
class RowRule:
    """How texts become rows.

    Attributes:
        lead: a row of depth d behind position a predicts token a + d + lead (see `groups`).
        masks: K - 1.
        keep, least: conditional drop-token; depth d keeps the share max(keep**d, least).
        prompts: prompt tokens are predicted too, not only the answer's.
    """

    lead: int
    masks: int
    keep: float = 1.0
    least: float = 0.0
    prompts: bool = True

    @property
    def whole(self) -> RowRule:
        """The same without dropping, answers only: for evaluation."""
        return RowRule(self.lead, self.masks, prompts=False)


@dataclass(frozen=True)
class Batch:
    """Rows of several texts. T real rows (all tokens but each text's last), R rows, C tokens of the target's best."""

    layout: Layout
    ids_T: Tensor  # the token a real row belongs to
    next_ids_T: Tensor  # and the one after it
    features_TF: Tensor
    labels_R: Tensor  # the token to predict, IGNORED where none is
    top_ids_RC: Tensor  # the target's best at that place, and their log-probabilities; any where the label is ignored
    top_logprobs_RC: Tensor
    longest: int  # bounds the positions

    @property
    def anchors(self) -> int:
        """Real rows that learn: what training speed is counted in."""
        return int((self.labels_R[: self.layout.reals] >= 0).sum())

    def to(self, device: torch.device) -> Batch:
        names = ("ids_T", "next_ids_T", "features_TF", "labels_R", "top_ids_RC", "top_logprobs_RC")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return Batch(self.layout.to(device), longest=self.longest, **moved)


def collate(texts: Sequence[tuple[Seen, int]], rule: RowRule, generator: torch.Generator | None = None) -> Batch:
    """The batch of (text as the target sees it, length of its prompt) pairs.

    `generator` draws which depths are dropped; it is needed if the rule drops any.
    """
    lengths = [len(seen.ids_T) for seen, _ in texts]
    most = [
        masks_behind(length, 0 if rule.prompts else prompt, rule.lead, rule.masks)
        for length, (_, prompt) in zip(lengths, texts, strict=True)
    ]
    masks_T = torch.cat(most)
    if rule.keep < 1:
        assert generator is not None, "dropping needs a generator"
        masks_T = torch.minimum(masks_T, kept_depths(len(masks_T), rule.masks, rule.keep, rule.least, generator))
    layout = lay_out([length - 1 for length in lengths], masks_T.clamp(min=0))

    rows, first_token = layout.rows, torch.tensor([0, *lengths]).cumsum(0)
    place_R = rows.anchor + rows.depth + rule.lead
    prompt_R = torch.tensor([0 if rule.prompts else prompt for _, prompt in texts])[rows.text]
    there_R = (place_R < torch.tensor(lengths)[rows.text]) & (place_R >= prompt_R)
    token_R = torch.where(there_R, first_token[rows.text] + place_R, 1)

    def joined(name: str, part: slice = slice(None)) -> Tensor:
        return torch.cat([getattr(seen, name)[part] for seen, _ in texts]).cpu()  # labels are worked out there

    return Batch(
        layout,
        ids_T=joined("ids_T", slice(None, -1)),
        next_ids_T=joined("ids_T", slice(1, None)),
        features_TF=joined("features_TF", slice(None, -1)),
        labels_R=torch.where(there_R, joined("ids_T")[token_R], IGNORED),
        top_ids_RC=joined("top_ids_TC")[token_R - 1],
        top_logprobs_RC=joined("top_logprobs_TC")[token_R - 1],
        longest=max(lengths) + rule.masks,
    )
