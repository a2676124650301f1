"""Group-wise training rows (ParallelSpec): each position of a text, and behind it masks for the depths after the first.

A group is a real row, its anchor, and up to K-1 mask rows. A row of depth d (0: the real row itself) behind the anchor
at position a stands where inference puts it, RoPE position a + d, and predicts token a + d + lead: lead 2 for drafters
whose row pairs a token with the features before it, 1 for language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # a label that is not there


@dataclass(frozen=True)
class Rows:
    """What decides which row sees which: text, position of the anchor in it, and depth. int64, any shapes."""

    text: Tensor
    anchor: Tensor
    depth: Tensor

    def __getitem__(self, index: Tensor | slice | tuple[slice | None, ...]) -> Rows:
        return Rows(self.text[index], self.anchor[index], self.depth[index])


def sees(query: Rows, key: Rows) -> Tensor:
    """THE rule: real rows up to the own anchor, and the own group's rows up to itself. Broadcasts; bool."""
    real = (key.depth == 0) & (key.anchor <= query.anchor)
    group = (key.anchor == query.anchor) & (key.depth <= query.depth)
    return (key.text == query.text) & (real | group)


@dataclass(frozen=True)
class Layout:
    """The rows of a batch, packed: the T real rows of all texts, then the masks, a group's behind one another.

    Both are ordered by text and anchor. R counts all rows.
    """

    rows: Rows  # [R]
    anchor_J: Tensor  # real row that is the anchor of each of the R - T masks
    texts: list[slice]  # real rows of each text
    first_mask_T: list[int]  # T+1 rows: the masks behind real row t are first_mask_T[t] .. first_mask_T[t+1]

    @property
    def reals(self) -> int:
        """T."""
        return len(self.first_mask_T) - 1

    @property
    def positions_R(self) -> Tensor:
        """RoPE positions."""
        return self.rows.anchor + self.rows.depth

    def to(self, device: torch.device) -> Layout:
        text, anchor, depth = (x.to(device) for x in (self.rows.text, self.rows.anchor, self.rows.depth))
        return Layout(Rows(text, anchor, depth), self.anchor_J.to(device), self.texts, self.first_mask_T)


def lay_out(lengths: Sequence[int], masks_T: Tensor) -> Layout:
    """The layout of texts with `lengths` real rows, masks_T[t] masks behind each."""
    T = sum(lengths)
    assert masks_T.shape == (T,), "a number of masks for every real row"
    text_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    starts = torch.tensor([0, *lengths]).cumsum(0)
    ends_T = masks_T.cumsum(0)
    anchor_J = torch.repeat_interleave(torch.arange(T), masks_T)
    depth_J = 1 + torch.arange(len(anchor_J)) - (ends_T - masks_T)[anchor_J]
    real_R = torch.cat([torch.arange(T), anchor_J])
    depth_R = torch.cat([torch.zeros(T, dtype=torch.int64), depth_J])
    text_R = text_T[real_R]
    bounds = starts.tolist()
    texts = [slice(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    return Layout(Rows(text_R, real_R - starts[text_R], depth_R), anchor_J, texts, [T, *(T + ends_T).tolist()])


def kept_depths(anchors: int, masks: int, keep: float, least: float, generator: torch.Generator) -> Tensor:
    """Conditional drop-token (PARD, arXiv 2504.18583): how many of `masks` depths each anchor keeps.

    Depth d is kept by a random share max(keep**d, least) of the anchors; who keeps it keeps the depths before it. A
    keep of 1 drops nothing.
    """
    share_D = torch.tensor([max(keep**depth, least) for depth in range(1, masks + 1)])
    return (torch.rand(anchors, 1, generator=generator) < share_D).sum(1)


def masks_behind(length: int, prompt: int, lead: int, masks: int) -> Tensor:
    """[length - 1] masks that find something to predict behind each real row of a text; -1: not even the anchor does.

    Args:
        length: tokens of the text; the row of its last token predicts nothing.
        prompt: tokens from this one on are predicted.
    """
    position_T = torch.arange(length - 1)
    most_T = (length - 1 - lead - position_T).clamp(-1, masks)  # depth d predicts token position + d + lead
    return torch.where(position_T + lead + most_T >= prompt, most_T, -1)
