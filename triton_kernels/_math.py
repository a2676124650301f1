"""Arithmetic that several kernels must do alike, so that a fused op has the bits of the separate ones."""

from __future__ import annotations

import triton.language as tl

from ._common import device_function, narrow, widen

LANES = tl.constexpr(128)  # partial sums of a row's squares


@device_function
def pairwise_sum(x, A: tl.constexpr, S: tl.constexpr, B: tl.constexpr):
    """[A, B] = sum over the middle axis of x [A, S, B], S a power of two, as a tree: neighbours first.

    The order of tl.sum follows the layout, which tile shapes change; two values have one order only.
    """
    if S == 1:
        return tl.reshape(x, (A, B))
    else:  # the compiler looks at both branches of an `if` that returns without one
        return pairwise_sum(tl.sum(tl.reshape(x, (A, S // 2, 2, B)), 2), A, S // 2, B)


@device_function
def lane_squares(rows, inside, I: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, UPCAST: tl.constexpr):
    """[.., LANES] sums of squares of columns (FIRST + i) * LANES + lane, i < COUNT, as a pairwise tree over i.

    `rows` [.., 1] points to the rows' starts; columns from I on count as 0. COUNT is a power of two.
    """
    if COUNT == 1:
        column = FIRST * LANES + tl.arange(0, LANES)
        x = widen(tl.load(rows + column, mask=inside & (column < I), other=0.0), UPCAST)
        return x * x
    else:
        left = lane_squares(rows, inside, I, FIRST, COUNT // 2, UPCAST)
        if COUNT > 16:
            tl.debug_barrier()  # no loads across: those of a whole row at once do not fit in the registers
        if (FIRST + COUNT // 2) * LANES >= I:
            return left
        else:
            return left + lane_squares(rows, inside, I, FIRST + COUNT // 2, COUNT // 2, UPCAST)


@device_function
def lane_squares_of(x, W: tl.constexpr):
    """`lane_squares` [1, LANES] of one row that is there: fp32 x [W], zeros beyond its columns, W a multiple of LANES
    and a power of two."""
    return pairwise_sum(tl.reshape(x * x, (1, W // LANES, LANES)), 1, W // LANES, LANES)


@device_function
def rms_scale(square_sum, count, eps):
    """1 / sqrt(square_sum / count + eps), every operation rounded correctly: as exact as the sum is."""
    mean_square = tl.div_rn(square_sum, count.to(tl.float32))
    return tl.div_rn(mean_square * 0.0 + 1.0, tl.sqrt_rn(mean_square + eps))


@device_function
def row_scales(squares, count, eps, BUCKET: tl.constexpr):
    """[BUCKET] `rms_scale` from the rows' `lane_squares` [BUCKET, LANES] over `count` columns."""
    total = tl.reshape(pairwise_sum(tl.reshape(squares, (BUCKET, LANES, 1)), BUCKET, LANES, 1), (BUCKET,))
    return rms_scale(total, tl.full((BUCKET,), count, tl.int32), eps)


@device_function
def normed(x, scale, weight, dtype: tl.constexpr, UPCAST: tl.constexpr):
    """fp32 x * scale rounded to dtype, times weight, rounded to dtype; as Hugging Face rounds."""
    return narrow(widen(narrow(x * scale, dtype, UPCAST), UPCAST) * weight, dtype, UPCAST)


@device_function
def silu_product(gate, up):
    """silu(gate) * up in fp32."""
    return gate / (1.0 + tl.exp(-gate)) * up
