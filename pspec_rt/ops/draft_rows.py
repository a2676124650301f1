"""draft_rows: which rows a draft runs: ids, positions, cache rows, ancestor words, and the rows that predict."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..ref.draft_rows import draft_rows as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr

MAX_ROWS = 64  # one bit each in a word


def _native(backend: str, *tensors: Tensor, shift: int, mask_id: int, vocab: int) -> None:
    (B, P), N = tensors[0].shape, tensors[3].shape[1]
    native_launch("draft_rows", backend, *map(ptr, tensors), B, P, N, shift, mask_id, vocab)


_op = Op("draft_rows", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def draft_rows(
    emitted_BP: Tensor,
    count_B: Tensor,
    length_B: Tensor,
    ids_BN: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    take_BT: Tensor,
    source_BN: Tensor,
    *,
    shift: int,
    mask_id: int = 0,
    vocab: int = 0,
) -> None:
    """Rows of one draft: P for the tokens emitted last round, then J = N - P masks behind the newest of them.

    Row i < P stands for the i-th token emitted; rows from count on are padding. The last real one is the anchor, at
    position length - 1 + shift. A real row sees the real ones up to itself, a mask all real ones and the masks up to
    itself, padding nothing real after itself. A slot whose first row would lie before the text (a one-token prompt,
    shifted) has no real rows.

    Args:
        emitted_BP: [B, P] int32, -1 padded.
        count_B, length_B: [B] int32, tokens emitted last round and committed in all.
        ids_BN: [B, N] int32 written: the tokens, then mask_id. N <= 64.
        positions_BN: [B, N] int32 written, at least 0.
        prefix_B: [B] int32 written: row n's key and value belong in cache row prefix + n.
        words_BN: [B, N] int64 written, ancestor words over the N rows.
        take_BT: [B, 1+J] int32 written: the rows that predict, anchor (0 if nothing was emitted) and masks.
        source_BN: [B, N] int32 written: the token row that a row's feature comes from, a mask's being the anchor's.
        shift: position of a token's row relative to the token's: 0, or -1 where rows pair a token with the feature
            before it.
        mask_id: id of the mask rows.
        vocab: ids from here on are written as -1; 0: none are.
    """
    (B, P), N = emitted_BP.shape, ids_BN.shape[1]
    if not P <= N <= MAX_ROWS:
        raise ValueError(f"ids_BN: expected {P}..{MAX_ROWS} rows, got {N}")
    for name, tensor in (
        ("ids_BN", ids_BN),
        ("positions_BN", positions_BN),
        ("words_BN", words_BN),
        ("source_BN", source_BN),
    ):
        expect_shape(name, tensor, B, N)
    for name, tensor in (("count_B", count_B), ("length_B", length_B), ("prefix_B", prefix_B)):
        expect_shape(name, tensor, B)
    expect_shape("take_BT", take_BT, B, 1 + N - P)
    expect_dtypes(torch.int32, emitted_BP=emitted_BP, count_B=count_B, length_B=length_B, ids_BN=ids_BN)
    expect_dtypes(torch.int32, positions_BN=positions_BN, prefix_B=prefix_B, take_BT=take_BT, source_BN=source_BN)
    expect_dtypes(torch.int64, words_BN=words_BN)
    outputs = (ids_BN, positions_BN, prefix_B, words_BN, take_BT, source_BN)
    _op(ids_BN.device)(emitted_BP, count_B, length_B, *outputs, shift=shift, mask_id=mask_id, vocab=vocab)
