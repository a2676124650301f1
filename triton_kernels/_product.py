"""The K loop of a skinny GEMM: rows of a weight on the MMA's M side, tokens on its N side, one order of every sum.

Column k of a weight belongs to chunk (k // STEP) % CHUNKS. A chunk adds up its columns in ascending order, and the
chunks are added as a pairwise tree, neighbours first. CHUNKS and STEP are constants of the weight's shape
(`_linear_tiles.Order`), so an output has the same bits for any number of tokens, whichever tile, and whether its chunks
lie in one program (`add_chunks`) or in several (`add_partials`).

SPLIT > 1 chunks of a program are the batch of a batched dot, which the compiler gives a warp each: mma.sync on every
architecture. SPLIT = 1 is a plain dot of all warps: wgmma on sm_90, tcgen05 on sm_100.
"""

from __future__ import annotations

import triton.language as tl

from ._common import device_function, widen
from ._math import normed

PREFETCH_COLUMNS = tl.constexpr(1024)  # of a program's weight rows, before the kernel in front has finished


@device_function
def product(
    x_rows, tail, inside, scale, norm, w_rows, chunk,
    I: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, BUCKET: tl.constexpr,
    CHUNKS: tl.constexpr, STEP: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Sums of chunks chunk .. chunk + SPLIT - 1, fp32: [SPLIT, ROWS, BUCKET], or [ROWS, BUCKET] if SPLIT is 1.

    x_rows: [BUCKET] pointers to the tokens' rows of I columns, read where `inside` [BUCKET], else taken as zeros.
    tail: None, or [BUCKET] pointers for which column k >= E of the row is tail + k.
    scale, norm: None, or fp32 [BUCKET] and a pointer to [I]: x is normed first, see `_math.normed`.
    w_rows: [ROWS] pointers to the weight's rows, all readable.
    WIDE: dot in fp32 (IEEE), as inputs of fp32 and the interpreter's bf16 (UPCAST) need.
    """
    step = tl.arange(0, STEP)
    if SPLIT == 1:
        w_columns = (chunk * STEP + step)[None, :]
        x_columns = (chunk * STEP + step)[:, None]
        w_at, x_at, inside = w_rows[:, None], x_rows[None, :], inside[None, :]
        tail_at = None if tail is None else tail[None, :]
        scale_at = None if scale is None else scale[None, :]
        sums = tl.zeros((ROWS, BUCKET), tl.float32)
    else:
        part = (chunk + tl.arange(0, SPLIT)) * STEP
        w_columns = part[:, None, None] + step[None, None, :]
        x_columns = part[:, None, None] + step[None, :, None]
        w_at, x_at, inside = w_rows[None, :, None], x_rows[None, None, :], inside[None, None, :]
        tail_at = None if tail is None else tail[None, None, :]
        scale_at = None if scale is None else scale[None, None, :]
        sums = tl.zeros((SPLIT, ROWS, BUCKET), tl.float32)
    for start in tl.range(0, I, CHUNKS * STEP):
        k = start + x_columns
        at = x_at + k
        if tail is not None:
            at = tl.where(k < E, at, tail_at + k)
        if I % (CHUNKS * STEP) == 0:
            w = tl.load(w_at + (start + w_columns), eviction_policy="evict_first")
            x = tl.load(at, mask=inside, other=0.0)
        else:
            w = tl.load(
                w_at + (start + w_columns), mask=start + w_columns < I, other=0.0, eviction_policy="evict_first"
            )
            x = tl.load(at, mask=inside & (k < I), other=0.0)
        if norm is not None:
            weight = widen(tl.load(norm + k, mask=k < I, other=0.0), UPCAST)
            x = normed(widen(x, UPCAST), scale_at, weight, x_rows.dtype.element_ty, UPCAST)
        if WIDE:
            sums = tl.dot(widen(w, UPCAST), widen(x, UPCAST), sums, input_precision="ieee")
        else:
            sums = tl.dot(w, x, sums)
    return sums


@device_function
def add_chunks(sums, ROWS: tl.constexpr, BUCKET: tl.constexpr, SPLIT: tl.constexpr):
    """[ROWS, BUCKET]: what `product` returned, its chunks added."""
    if SPLIT == 1:
        return sums
    else:
        return _add_last(tl.permute(sums, (1, 2, 0)), ROWS, BUCKET, SPLIT)


@device_function
def _add_last(x, ROWS: tl.constexpr, BUCKET: tl.constexpr, SPLIT: tl.constexpr):
    # Unlike `pairwise_sum` this exchanges all warps' sums at once, and a thread gets those of all chunks.
    if SPLIT == 1:
        return tl.reshape(x, (ROWS, BUCKET))
    else:
        even, odd = tl.split(tl.reshape(x, (ROWS, BUCKET, SPLIT // 2, 2)))
        return _add_last(even + odd, ROWS, BUCKET, SPLIT // 2)


@device_function
def whole_product(
    x_rows, tail, inside, scale, norm, w_rows, chunk, PARTS: tl.constexpr,
    I: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, BUCKET: tl.constexpr,
    CHUNKS: tl.constexpr, STEP: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """[ROWS, BUCKET] sum of PARTS * SPLIT chunks from `chunk` on, one run of `product` after another: for kernels that
    need a complete product in one program. Arguments as in `product`."""
    if PARTS == 1:
        sums = product(
            x_rows, tail, inside, scale, norm, w_rows, chunk, I, E, ROWS, BUCKET, CHUNKS, STEP, SPLIT, WIDE, UPCAST
        )
        return add_chunks(sums, ROWS, BUCKET, SPLIT)
    else:
        HALF: tl.constexpr = PARTS // 2
        left = whole_product(
            x_rows, tail, inside, scale, norm, w_rows, chunk, HALF,
            I, E, ROWS, BUCKET, CHUNKS, STEP, SPLIT, WIDE, UPCAST,
        )  # fmt: skip
        return left + whole_product(
            x_rows, tail, inside, scale, norm, w_rows, chunk + HALF * SPLIT, HALF,
            I, E, ROWS, BUCKET, CHUNKS, STEP, SPLIT, WIDE, UPCAST,
        )  # fmt: skip


@device_function
def add_partials(at, mask, stride, COUNT: tl.constexpr):
    """The sum of COUNT tensors in memory, `stride` elements apart, as a pairwise tree. `at` points into the first."""
    if COUNT == 1:
        return tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")  # written by other SMs: not from L1
    else:
        left = add_partials(at, mask, stride, COUNT // 2)
        return left + add_partials(at + COUNT // 2 * stride, mask, stride, COUNT // 2)


@device_function
def prefetch(w_rows, chunk, I: tl.constexpr, CHUNKS: tl.constexpr, STEP: tl.constexpr, SPLIT: tl.constexpr):
    """Ask for the first columns of a program's weight rows in L2: weights do not wait for the kernel before."""
    line: tl.constexpr = 128 * 8 // w_rows.dtype.element_ty.primitive_bitwidth  # elements of a cache line
    column = tl.arange(0, PREFETCH_COLUMNS // line) * line
    run: tl.constexpr = SPLIT * STEP  # a program's columns are runs of this length
    k = column // run * (CHUNKS * STEP) + chunk * STEP + column % run
    address = (w_rows[:, None] + tl.minimum(k, I - 1)[None, :]).to(tl.int64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )
