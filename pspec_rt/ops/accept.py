"""accept: emit the target's tokens along the tree while a drafted child equals them."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..ref.accept import accept as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native_launch, ptr


class Publisher(Protocol):
    """What the op needs of a `pspec_rt.ring.Ring`."""

    B: int
    P: int
    capacity: int
    words_W: Tensor
    control_C: Tensor


def _native(
    backend: str,
    ids_BN: Tensor,
    parent_BN: Tensor,
    target_BN: Tensor,
    stop_ids_BQ: Tensor,
    limit_B: Tensor,
    length_B: Tensor,
    finished_B: Tensor,
    bonus_B: Tensor,
    tokens_BS: Tensor,
    path_BP: Tensor,
    emitted_BP: Tensor,
    count_B: Tensor,
    *,
    ring: Publisher | None = None,
) -> None:
    tree = (ids_BN, parent_BN, target_BN)
    slots = (stop_ids_BQ, limit_B, length_B, finished_B, bonus_B, tokens_BS)
    (B, N), Q, S, P = ids_BN.shape, stop_ids_BQ.shape[1], tokens_BS.shape[1], path_BP.shape[1]
    out = (path_BP, emitted_BP, count_B)
    words, control, capacity = (ring.words_W, ring.control_C, ring.capacity) if ring else (None, None, 0)
    addresses = map(ptr, (*tree, *slots, *out, words, control))
    native_launch("accept", backend, *addresses, B, N, Q, S, P, capacity)


_op = Op("accept", ref=_ref, cpu=partial(_native, "cpu"), cuda=partial(_native, "cuda"))


def accept(
    ids_BN: Tensor,
    parent_BN: Tensor,
    target_BN: Tensor,
    stop_ids_BQ: Tensor,
    limit_B: Tensor,
    length_B: Tensor,
    finished_B: Tensor,
    bonus_B: Tensor,
    tokens_BS: Tensor,
    path_BP: Tensor,
    emitted_BP: Tensor,
    count_B: Tensor,
    *,
    ring: Publisher | None = None,
) -> None:
    """Walk each running slot's tree from the root, emitting the target's token after every node it
    visits.

    At node i of the path: emit g = target[node] to tokens[length + i]; end (finished = 4) if g < 0,
    the target's logits being NaN; stop (finished = 1) if g is a stop id, else (finished = 2) if the
    new length reaches the limit; else go on to the lowest-index child whose id is g, if there is
    one and i + 1 < P. An id < 0 is no candidate and never matches. Then length += count, bonus =
    last emitted token. A slot with finished != 0 gets count 0 and padded path and emitted; nothing
    else of it changes.

    With a ring the same launch publishes the round to the host (csrc/common/ring.h); native
    backends only. A running slot whose cancel word is set then emits nothing and gets finished = 5.
    With no free record in the ring every slot gets count 0 and nothing else changes.

    Args:
        ids_BN, parent_BN: [B, N] int32 the tree.
        target_BN: [B, N] int32 the target's token after each node.
        stop_ids_BQ: [B, Q] int32, -1 is unused.
        limit_B: [B] int32 length at which the request ends, <= S.
        length_B: [B] int32, advanced.
        finished_B: [B] int32, 0 running, 1 stop id, 2 limit, 3 idle, 4 error, 5 cancelled; updated.
        bonus_B: [B] int32, updated.
        tokens_BS: [B, S] int32 history; positions length .. length+count-1 are written.
        path_BP, emitted_BP: [B, P] int32 written: nodes visited and tokens emitted, -1 padded.
        count_B: [B] int32 written, 1..P for a running slot.
        ring: made for these B and P, or None.
    """
    (B, N), P = ids_BN.shape, path_BP.shape[1]
    tree = {"ids_BN": ids_BN, "parent_BN": parent_BN, "target_BN": target_BN}
    out = {"path_BP": path_BP, "emitted_BP": emitted_BP}
    slots = {"limit_B": limit_B, "length_B": length_B, "finished_B": finished_B, "bonus_B": bonus_B}
    slots["count_B"] = count_B
    expected = ((tree, (B, N)), (out, (B, P)), (slots, (B,)))
    for tensors, shape in expected:
        for name, tensor in tensors.items():
            expect_shape(name, tensor, *shape)
    expect_shape("stop_ids_BQ", stop_ids_BQ, B, stop_ids_BQ.shape[1])
    expect_shape("tokens_BS", tokens_BS, B, tokens_BS.shape[1])
    if ring is not None and (ring.B, ring.P) != (B, P):
        raise ValueError(f"ring: made for B={ring.B}, P={ring.P}, got B={B}, P={P}")
    rows = {"stop_ids_BQ": stop_ids_BQ, "tokens_BS": tokens_BS}
    expect_dtypes(torch.int32, **tree, **out, **slots, **rows)
    _op(ids_BN.device)(
        ids_BN, parent_BN, target_BN, stop_ids_BQ, limit_B,
        length_B, finished_B, bonus_B, tokens_BS, path_BP, emitted_BP, count_B, ring=ring,
    )  # fmt: skip
