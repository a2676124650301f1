"""The two kernels of tree_attention: partial sums of runs and of each node's own keys, and their fold."""

from __future__ import annotations

import triton
import triton.language as tl

from ._ancestors import bit_counts, popcount, row_offset, select_bit
from ._common import device_function, narrow, widen

# Which logical rows a query row sums, in which groups and order, follows from its own logical index t and the window
# alone, and each group is computed by the same instructions whoever comes along:
#   body  rows first .. last-1, both multiples of GRAIN, last <= t - 63: committed however t is computed (a tree is at
#         most 64 deep), hence read in place, by tiles of query rows that share them. Runs of RUN rows are summed apart.
#   edge  the others: the newest 64 .. 127 rows, gathered in logical order through the ancestor word, and with a window
#         the up to 63 rows in front of the body. One program per node and KV head.
# The fold takes the runs in ascending order, then the edge.


@device_function
def _body(t, window, GRAIN: tl.constexpr, WINDOWED: tl.constexpr):
    """(start, first, last): the oldest row the window lets in, and the bounds of the body."""
    last = tl.maximum(t - (GRAIN - 1), 0) & -GRAIN
    start = tl.maximum(t - window + 1, 0) if WINDOWED else t * 0
    return start, tl.minimum((start + (GRAIN - 1)) & -GRAIN, last), last


@device_function
def _attend(q, k, v, scale2, seen, m, l, acc, UPCAST: tl.constexpr):
    """A block of keys more: m, l, acc are a row's largest score (of base 2), sum and weighted values."""
    if UPCAST:
        q, k, v = widen(q, UPCAST), widen(k, UPCAST), widen(v, UPCAST)
    scores = tl.where(seen, tl.dot(q, tl.trans(k), input_precision="ieee") * scale2, float("-inf"))
    top = tl.maximum(m, tl.max(scores, 1))
    shift = tl.where(top == float("-inf"), 0.0, top)  # nothing seen so far
    p = tl.exp2(scores - shift[:, None])
    decay = tl.exp2(m - shift)
    acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None], input_precision="ieee")
    return top, l * decay + tl.sum(p, 1), acc


@device_function
def _store_partial(m, l, acc, sums, stats, part, rows, first, count, TILE: tl.constexpr, E: tl.constexpr):
    """Partial sums of `count` rows from `first` on: sums [part, row, E], stats [part, 2, row]. `rows` has 64 bits.

    Also of rows that have no such part, which the fold does not read: a mask from data would cost registers.
    """
    row, e = tl.arange(0, TILE), tl.arange(0, acc.shape[1])
    used = row < count
    stats += 2 * part * rows + first
    tl.store(stats + row, m, mask=used)
    tl.store(stats + rows + row, l, mask=used)
    # A scalar and a constant per element: an address in registers for each would cost 64 of them.
    sums += (part * rows + first) * E
    tl.store(sums + row[:, None] * E + e[None, :], acc, mask=used[:, None] & (e < E)[None, :])


@device_function
def _edge(
    q, k, v, past, word, table, sums, stats, scale2, window, first_row, rows, stride_p,
    RATIO: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    GRAIN: tl.constexpr, PAGE: tl.constexpr, WINDOWED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Partial 0: the query rows of one node, whose first is q[0], and the node's own keys."""
    head, e = tl.arange(0, TILE), tl.arange(0, BLOCK_E)
    inside = (e < E)[None, :]
    t = past + popcount(word) - 1
    start, first, last = _body(t, window, GRAIN, WINDOWED)
    m = tl.full([TILE], float("-inf"), tl.float32)
    l = tl.full([TILE], 0.0, tl.float32)
    acc = tl.full([TILE, BLOCK_E], 0.0, tl.float32)
    q_tile = tl.load(q + head[:, None] * E + e[None, :], mask=(head < RATIO)[:, None] & inside, other=0.0)
    in2, in4, in8, in16, in32 = bit_counts(word)
    before = tl.where(start < first, GRAIN // BLOCK, 0)
    for i in range(-before, (t - last) // BLOCK + 1):
        j = tl.where(i < 0, first, last) + i * BLOCK + tl.arange(0, BLOCK)
        seen = (j >= start) & (j <= t)
        new = select_bit(word, in2, in4, in8, in16, in32, tl.maximum(j - past, 0))
        cached = tl.where(j < past, j, past + new)
        at = row_offset(cached, seen, table, stride_p, E, PAGE)[:, None] + e[None, :]
        k_block = tl.load(k + at, mask=seen[:, None] & inside, other=0.0)
        v_block = tl.load(v + at, mask=seen[:, None] & inside, other=0.0)
        m, l, acc = _attend(q_tile, k_block, v_block, scale2, seen[None, :], m, l, acc, UPCAST)
    _store_partial(m, l, acc, sums, stats, 0, rows, first_row, RATIO, TILE, E)


@device_function
def _runs(
    q, k, v, past, words, table, sums, stats, scale2, window, first_row, rows, count, split, stride_p,
    H: tl.constexpr, RATIO: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, TILE: tl.constexpr,
    BLOCK: tl.constexpr, GRAIN: tl.constexpr, RUN: tl.constexpr, SPLITS: tl.constexpr,
    PAGE: tl.constexpr, WINDOWED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Partials 1, 2, ..: runs split, split + SPLITS, .. of the bodies of a tile of a slot's query rows."""
    row, e = first_row + tl.arange(0, TILE), tl.arange(0, BLOCK_E)
    inside = (e < E)[None, :]
    word = tl.load(words + row // RATIO, mask=row < first_row + count, other=0)
    used = word != 0
    start, first, last = _body(past + popcount(word) - 1, window, GRAIN, WINDOWED)
    last = tl.where(used, last, 0)
    begin = tl.min(tl.where(used, first, 0x7FFFFFFF), 0)
    end = tl.max(last, 0)
    at_q = (row // RATIO * H + row % RATIO)[:, None] * E + e[None, :]
    q_tile = tl.load(q + at_q, mask=used[:, None] & inside, other=0.0)
    at_block = tl.arange(0, BLOCK)[:, None] * E + e[None, :]
    for run in range(begin // RUN + split, (end + RUN - 1) // RUN, SPLITS):
        m = tl.full([TILE], float("-inf"), tl.float32)
        l = tl.full([TILE], 0.0, tl.float32)
        acc = tl.full([TILE, BLOCK_E], 0.0, tl.float32)
        for block in range(tl.maximum(begin, run * RUN), tl.minimum(end, run * RUN + RUN), BLOCK):
            if 0 < PAGE and PAGE < BLOCK:
                j = block + tl.arange(0, BLOCK)
                at = row_offset(j, j < end, table, stride_p, E, PAGE)[:, None] + e[None, :]
                k_block = tl.load(k + at, mask=inside, other=0.0)
                v_block = tl.load(v + at, mask=inside, other=0.0)
            else:
                at = row_offset(block, block < end, table, stride_p, E, PAGE)
                k_block = tl.load(k + at + at_block, mask=inside, other=0.0)
                v_block = tl.load(v + at + at_block, mask=inside, other=0.0)
            seen = (first <= block) & (block < last)
            m, l, acc = _attend(q_tile, k_block, v_block, scale2, seen[:, None], m, l, acc, UPCAST)
            if WINDOWED:  # rows the window hides from a query may hold NaN, and 0 * NaN is NaN
                acc = tl.where((first <= block)[:, None], acc, 0.0)
        _store_partial(m, l, acc, sums, stats, run + 1, rows, first_row, count, TILE, E)


@triton.jit(do_not_specialize=["window", "N", "T"])
def partials_kernel(
    q, k, v, prefix, words, table, sums, stats, scale2, window, N, T, stride_p, stride_g,
    H: tl.constexpr, G: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr,
    TILE: tl.constexpr, EDGE_TILE: tl.constexpr, BLOCK: tl.constexpr, GRAIN: tl.constexpr,
    RUN: tl.constexpr, SPLITS: tl.constexpr, PAGE: tl.constexpr, WINDOWED: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    ratio: tl.constexpr = H // G
    pair, work = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot, g = pair // G, pair % G
    rows = tl.num_programs(0).to(tl.int64) * N * ratio
    q += (slot * N * H + g * ratio) * E
    k += g * stride_g
    v += g * stride_g
    if PAGE:
        table += slot * T
    else:
        k += slot * stride_p
        v += slot * stride_p
    words += slot * N
    sums += pair * N * ratio * E
    stats += pair * N * ratio
    past = tl.maximum(tl.load(prefix + slot), 0)
    if work < N:
        word = tl.load(words + work)
        if word != 0:
            _edge(
                q + work * H * E, k, v, past, word, table, sums, stats, scale2, window, work * ratio, rows, stride_p,
                ratio, E, BLOCK_E, EDGE_TILE, BLOCK, GRAIN, PAGE, WINDOWED, UPCAST,
            )  # fmt: skip
    else:
        tiles = (N * ratio + TILE - 1) // TILE
        first_row = (work - N) % tiles * TILE
        _runs(
            q, k, v, past, words, table, sums, stats, scale2, window, first_row, rows, N * ratio - first_row,
            (work - N) // tiles, stride_p,
            H, ratio, E, BLOCK_E, TILE, BLOCK, GRAIN, RUN, SPLITS, PAGE, WINDOWED, UPCAST,
        )  # fmt: skip


@triton.jit(do_not_specialize=["window", "N"])
def fold_kernel(
    prefix, words, sums, stats, out, window, N,
    H: tl.constexpr, G: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, HEADS: tl.constexpr,
    CHUNK: tl.constexpr, GRAIN: tl.constexpr, RUN: tl.constexpr, WINDOWED: tl.constexpr,
    UPCAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    ratio: tl.constexpr = H // G
    node, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tl.num_programs(0).to(tl.int64) * H
    first_row = ((node // N * G + g) * N + node % N) * ratio
    sums += first_row * E
    stats += first_row
    out += (node * H + g * ratio) * E
    word = tl.load(words + node)
    past = tl.maximum(tl.load(prefix + node // N), 0)
    start, first, last = _body(past + popcount(word) - 1, window, GRAIN, WINDOWED)
    head, e = tl.arange(0, HEADS), tl.arange(0, BLOCK_E)
    at = head[:, None] * E + e[None, :]
    alive = head < tl.where(word != 0, ratio, 0)
    inside = (e < E)[None, :]
    # The edge's share is loaded first and added last.
    edge_m = tl.load(stats + head, mask=alive, other=0.0)
    edge_l = tl.load(stats + rows + head, mask=alive, other=1.0)
    edge_acc = tl.load(sums + at, mask=alive[:, None] & inside, other=0.0)
    m, l, acc = edge_m, tl.full([HEADS], 0.0, tl.float32), tl.full([HEADS, BLOCK_E], 0.0, tl.float32)
    for base in range(first // RUN, (last + RUN - 1) // RUN, CHUNK):
        run = base + tl.arange(0, CHUNK)
        part = ((run + 1).to(tl.int64) * rows)[:, None]
        there = (run * RUN < last)[:, None] & alive[None, :]
        part_m = tl.load(stats + 2 * part + head[None, :], mask=there, other=float("-inf"))
        part_l = tl.load(stats + 2 * part + rows + head[None, :], mask=there, other=0.0)
        at_part = part[:, :, None] * E + at[None, :, :]
        part_acc = tl.load(sums + at_part, mask=there[:, :, None] & inside[None, :, :], other=0.0)
        top = tl.maximum(m, tl.max(part_m, 0))
        weight, decay = tl.exp2(part_m - top[None, :]), tl.exp2(m - top)
        l = l * decay + tl.sum(weight * part_l, 0)
        acc = acc * decay[:, None] + tl.sum(weight[:, :, None] * part_acc, 0)
        m = top
    weight = tl.exp2(edge_m - m)
    acc = (acc + weight[:, None] * edge_acc) / (l + weight * edge_l)[:, None]
    tl.store(out + at, narrow(acc, out.dtype.element_ty, UPCAST), mask=(head < ratio)[:, None] & inside)
