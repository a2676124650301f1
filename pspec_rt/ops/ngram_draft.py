"""ngram_draft: prompt lookup, drafting by copying what followed the same tokens before."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..ref.ngram_draft import ngram_draft as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr


def _native(
    backend: str,
    tokens_BS: Tensor,
    length_B: Tensor,
    out_ids_BK: Tensor,
    out_scores_BK: Tensor | None = None,
    *,
    max_ngram: int = 4,
    min_ngram: int = 2,
) -> None:
    (B, S), K = tokens_BS.shape, out_ids_BK.shape[1]
    scores = 0 if out_scores_BK is None else out_scores_BK.data_ptr()
    addresses = (ptr(tokens_BS), ptr(length_B), out_ids_BK.data_ptr(), scores)
    native_launch("ngram_draft", backend, *addresses, B, S, K, *out_ids_BK.stride(), max_ngram, min_ngram)


_op = Op("ngram_draft", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def ngram_draft(
    tokens_BS: Tensor,
    length_B: Tensor,
    out_ids_BK: Tensor,
    out_scores_BK: Tensor | None = None,
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
        out_ids_BK: [B, K] int32 written; may be strided, as the best column of [B, K, C] is.
        out_scores_BK: [B, K] fp32 with the strides of out_ids_BK, written: log of the chance that a
            token is right if those before it are, by the length of the match and its place (a
            table, counted on text; see `ref.ngram_draft`), -inf where the id is -1; or None.
        max_ngram, min_ngram: longest and shortest suffix tried, 1 <= min <= max.
    """
    if not 1 <= min_ngram <= max_ngram:
        raise ValueError(f"need 1 <= min_ngram <= max_ngram, got {min_ngram} and {max_ngram}")
    B, K = tokens_BS.shape[0], out_ids_BK.shape[1]
    expect_shape("length_B", length_B, B)
    expect_shape("out_ids_BK", out_ids_BK, B, K)
    expect_dtypes(torch.int32, tokens_BS=tokens_BS, length_B=length_B, out_ids_BK=out_ids_BK)
    if out_scores_BK is not None:
        expect_shape("out_scores_BK", out_scores_BK, B, K)
        expect_dtypes(torch.float32, out_scores_BK=out_scores_BK)
        if out_scores_BK.stride() != out_ids_BK.stride():
            raise ValueError(f"out_scores_BK: strides {out_scores_BK.stride()}, those of ids {out_ids_BK.stride()}")
    sizes = {"max_ngram": max_ngram, "min_ngram": min_ngram}
    _op(tokens_BS.device)(tokens_BS, length_B, out_ids_BK, out_scores_BK, **sizes)
