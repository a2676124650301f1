"""ngram_draft: prompt lookup, drafting by copying what followed the same tokens before."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.ngram_draft import ngram_draft as _ref
from ._dispatch import Op, expect_dtypes, expect_shape

_op = Op("ngram_draft", ref=_ref)


def ngram_draft(
    tokens_BS: Tensor,
    length_B: Tensor,
    out_ids_BK: Tensor,
    *,
    max_ngram: int = 4,
    min_ngram: int = 2,
) -> None:
    """out = the K tokens that followed the most recent earlier occurrence of the longest matching
    suffix.

    The suffix is the newest max_ngram tokens; if it did not occur before, one token less, down to
    min_ngram. An occurrence counts if at least one token follows it. Where fewer than K follow, the
    rest is -1; no match gives all -1. Prompt lookup decoding (Saxena 2023).

    Args:
        tokens_BS: [B, S] int32 history; what lies at length and beyond is not read.
        length_B: [B] int32 tokens of the history, 1 <= length <= S.
        out_ids_BK: [B, K] int32 written.
        max_ngram, min_ngram: longest and shortest suffix tried, 1 <= min <= max.
    """
    if not 1 <= min_ngram <= max_ngram:
        raise ValueError(f"need 1 <= min_ngram <= max_ngram, got {min_ngram} and {max_ngram}")
    expect_shape("length_B", length_B, tokens_BS.shape[0])
    expect_shape("out_ids_BK", out_ids_BK, tokens_BS.shape[0], out_ids_BK.shape[1])
    expect_dtypes(torch.int32, tokens_BS=tokens_BS, length_B=length_B, out_ids_BK=out_ids_BK)
    sizes = {"max_ngram": max_ngram, "min_ngram": min_ngram}
    _op(tokens_BS.device)(tokens_BS, length_B, out_ids_BK, **sizes)
