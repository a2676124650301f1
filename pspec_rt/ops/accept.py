"""accept: emit the target's tokens along the tree while a drafted child equals them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ref.accept import accept as _ref
from ._dispatch import Op, expect_dtypes, expect_shape, native, ptr


def _cpu(
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
) -> None:
    tree = (ids_BN, parent_BN, target_BN)
    slots = (stop_ids_BQ, limit_B, length_B, finished_B, bonus_B, tokens_BS)
    (B, N), Q, S, P = ids_BN.shape, stop_ids_BQ.shape[1], tokens_BS.shape[1], path_BP.shape[1]
    out = (path_BP, emitted_BP, count_B)
    native.accept(*map(ptr, tree), *map(ptr, slots), *map(ptr, out), B, N, Q, S, P)


_op = Op("accept", ref=_ref, cpu=_cpu)


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
) -> None:
    """Walk each running slot's tree from the root, emitting the target's token after every node it
    visits.

    At node i of the path: emit g = target[node] to tokens[length + i]; stop (finished = 1) if g is
    a stop id, else (finished = 2) if the new length reaches the limit; else go on to the
    lowest-index child whose id is g, if there is one and i + 1 < P. An id < 0 is no candidate and
    never matches. Then length += count, bonus = last emitted token. A slot with finished != 0 gets
    count 0 and padded path and emitted; nothing else of it changes.

    Args:
        ids_BN, parent_BN: [B, N] int32 the tree.
        target_BN: [B, N] int32 the target's token after each node.
        stop_ids_BQ: [B, Q] int32, -1 is unused.
        limit_B: [B] int32 length at which the request ends, <= S.
        length_B: [B] int32, advanced.
        finished_B: [B] int32, 0 running, 1 stop id, 2 limit, 3 idle; updated.
        bonus_B: [B] int32, updated.
        tokens_BS: [B, S] int32 history; positions length .. length+count-1 are written.
        path_BP, emitted_BP: [B, P] int32 written: nodes visited and tokens emitted, -1 padded.
        count_B: [B] int32 written, 1..P for a running slot.
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
    rows = {"stop_ids_BQ": stop_ids_BQ, "tokens_BS": tokens_BS}
    expect_dtypes(torch.int32, **tree, **out, **slots, **rows)
    _op(ids_BN.device)(
        ids_BN, parent_BN, target_BN, stop_ids_BQ, limit_B,
        length_B, finished_B, bonus_B, tokens_BS, path_BP, emitted_BP, count_B,
    )  # fmt: skip
