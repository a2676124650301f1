"""select_tokens in Triton: filters and picks without sorting, over rows and chunks of the vocabulary.

1. scan: maximum and sum of exponentials of each chunk; its best token in rows without a filter.
2. spread: how many tokens, and how much probability, lie within a few distances of the row's maximum.
3. gather: those within the least distance that must hold all tokens the filters can keep, as a list in order of ids.
4. pick: thresholds on that list by radix search over the bits of its values, then the seeded argmax.
5. logprobs, where they are asked for: of the picked token, and the most likely tokens of that list.

Probabilities are summed as integers, so that no sum depends on an order and what is kept depends on the row alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..scratch import scratch
from ._common import Specialization, launch_options
from ._filters import (
    DISTANCES,
    below_most,
    distance_of,
    divisor_of,
    keeps_all,
    load_logits,
    log_total_of,
    mass_of,
    narrowest,
    pick_filtered,
    row_maximum,
)
from ._top import NO_KEY, empty_top, finite, insert, key_index, key_value, make_key, not_nan, ranks

CHUNK = 2048  # tokens of a program in the first three launches
PART = 128  # of these at a time against all distances
BLOCK = 512  # tokens of the list at a time, and threads of its program


@triton.jit
def _scan_kernel(
    logits, temperature, top_k, top_p, min_p, noise, noise_row, chunk_max, chunk_sum, chunk_best, V, chunks,
    CHUNK: tl.constexpr, LOGPROBS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    v = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = v < V
    logit = load_logits(logits, row * V + v, inside)
    most = tl.max(logit, 0)
    at = row * chunks + chunk
    tl.store(chunk_max + at, most)
    if LOGPROBS:
        tl.store(chunk_sum + at, tl.sum(tl.exp(logit - finite(most)), 0))
    warmth = tl.load(temperature + row)
    if keeps_all(warmth, tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row), V):
        value = logit
        if warmth > 0:
            at_noise = tl.load(noise_row + row).to(tl.int64) * V + v
            value = tl.div_rn(logit, warmth) + tl.load(noise + at_noise, mask=inside, other=0.0)
        tl.store(chunk_best + at, tl.max(tl.where(inside, make_key(not_nan(value), v), NO_KEY), 0))


@triton.jit
def _spread_kernel(
    logits, temperature, top_k, top_p, min_p, chunk_max, count, mass, V, chunks,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PART: tl.constexpr, TOP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    warmth = tl.load(temperature + row)
    unfiltered = keeps_all(warmth, tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row), V)
    if (TOP > 0) | (unfiltered == 0):
        divisor = divisor_of(warmth)
        most = tl.div_rn(row_maximum(chunk_max, row, chunks, CHUNKS), divisor)
        i = tl.arange(0, DISTANCES)
        counts = tl.full((PART, DISTANCES), 0, tl.int32)
        masses = tl.full((PART, DISTANCES), 0, tl.int64)
        for first in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, V), PART):
            v = first + tl.arange(0, PART)
            below = below_most(tl.div_rn(load_logits(logits, row * V + v, v < V), divisor), most)
            near = (below[:, None] <= distance_of(i)[None, :]) & (v < V)[:, None]
            counts += near.to(tl.int32)
            masses += tl.where(near, mass_of(below)[:, None], 0)
        at = (row * chunks + chunk) * DISTANCES + i
        tl.store(count + at, tl.sum(counts, 0))
        tl.store(mass + at, tl.sum(masses, 0))


@triton.jit
def _gather_kernel(
    logits, temperature, top_k, top_p, min_p, chunk_max, count, mass, listed, length, total, V, chunks,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, TOP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    warmth, k, p, m = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
    unfiltered = keeps_all(warmth, k, p, m, V)
    if (TOP > 0) | (unfiltered == 0):
        c, i = tl.arange(0, CHUNKS)[:, None], tl.arange(0, DISTANCES)[None, :]
        at = (row * chunks + c) * DISTANCES + i
        counts = tl.load(count + at, mask=c < chunks, other=0)
        masses = tl.sum(tl.load(mass + at, mask=c < chunks, other=0), 0)
        reach = narrowest(tl.sum(counts, 0), masses, unfiltered, k, p, m, V, TOP)
        within = tl.sum(tl.where(i == reach, counts, 0), 1)  # of each chunk
        if chunk == 0:
            tl.store(length + row, tl.sum(within, 0))
            tl.store(total + row, tl.max(masses, 0))
        begin = tl.sum(tl.where(tl.arange(0, CHUNKS) < chunk, within, 0), 0)
        divisor = divisor_of(warmth)
        most = tl.div_rn(row_maximum(chunk_max, row, chunks, CHUNKS), divisor)
        v = chunk * CHUNK + tl.arange(0, CHUNK)
        below = below_most(tl.div_rn(load_logits(logits, row * V + v, v < V), divisor), most)
        near = (below <= distance_of(reach)) & (v < V)
        place = begin + tl.cumsum(near.to(tl.int32), 0) - 1
        tl.store(listed + row * V + place, v, mask=near)


@triton.jit
def _pick_kernel(
    logits, temperature, top_k, top_p, min_p, noise, noise_row, chunk_max, chunk_best, listed, length, total,
    out_ids, V, chunks,
    CHUNKS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    warmth, k, p, m = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
    most = row_maximum(chunk_max, row, chunks, CHUNKS)
    if keeps_all(warmth, k, p, m, V):
        c = tl.arange(0, CHUNKS)
        best = tl.max(tl.load(chunk_best + row * chunks + c, mask=c < chunks, other=NO_KEY), 0)
    else:
        best = pick_filtered(
            logits + row * V, listed + row * V, tl.load(length + row), tl.load(total + row),
            noise + tl.load(noise_row + row).to(tl.int64) * V, warmth, tl.div_rn(most, warmth), k, p, m, V, BLOCK,
        )  # fmt: skip
    tl.store(out_ids + row, tl.where(key_value(best) > float("-inf"), key_index(best), -1))


@triton.jit
def _logprobs_kernel(
    logits, chunk_max, chunk_sum, listed, length, out_ids, out_logprob, out_top_ids, out_top_logprobs, V, chunks,
    CHUNKS: tl.constexpr, BLOCK: tl.constexpr, TOP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Log-probability of a row's token, and its TOP largest logits, best first."""
    row = tl.program_id(0).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    most = row_maximum(chunk_max, row, chunks, CHUNKS)
    log_total = log_total_of(chunk_max, chunk_sum, row, chunks, most, CHUNKS)
    if out_logprob is not None:
        token = tl.load(out_ids + row)
        logit = tl.load(logits + row * V + token, mask=token >= 0, other=float("-inf"))
        tl.store(out_logprob + row, tl.where(token >= 0, logit - most - log_total, float("-inf")))
    if TOP > 0:
        top = empty_top(triton.next_power_of_2(TOP))
        count = tl.load(length + row)
        for first in range(0, count, BLOCK):
            place = first + tl.arange(0, BLOCK)
            inside = place < count
            listed_token = tl.load(listed + row * V + place, mask=inside, other=0)
            listed_logit = load_logits(logits + row * V, listed_token, inside)
            top = insert(top, tl.where(inside, make_key(listed_logit, listed_token), NO_KEY))
        rank, value = ranks(top), key_value(top)
        found = value > float("-inf")
        tl.store(out_top_ids + row * TOP + rank, tl.where(found, key_index(top), -1), mask=rank < TOP)
        logprob = tl.where(found, value - most - log_total, float("-inf"))
        tl.store(out_top_logprobs + row * TOP + rank, logprob, mask=rank < TOP)


def select_tokens(
    logits_RV: Tensor,
    out_ids_R: Tensor,
    *,
    temperature_R: Tensor,
    top_k_R: Tensor,
    top_p_R: Tensor,
    min_p_R: Tensor,
    noise_QV: Tensor,
    noise_row_R: Tensor,
    out_logprob_R: Tensor | None = None,
    out_top_ids_RT: Tensor | None = None,
    out_top_logprobs_RT: Tensor | None = None,
) -> None:
    """Seeded argmax over filtered logits, and log-probabilities; see `pspec_rt.ops.select_tokens`.

    All tensors are contiguous. V <= 2^18. The noise of greedy rows is not read.

    Args:
        logits_RV: [R, V] fp32.
        out_ids_R: [R] int32 written, -1 where a row has nothing but NaN and -inf.
        temperature_R, top_p_R, min_p_R: [R] fp32; top_k_R, noise_row_R: [R] int32.
        noise_QV: [Q, V] fp32.
        out_logprob_R: [R] fp32 written, or None.
        out_top_ids_RT, out_top_logprobs_RT: [R, T] int32 and fp32 written, or both None.

    Example:
        ids = torch.empty(R, dtype=torch.int32, device=logits.device)
        select_tokens(logits, ids, temperature_R=t, top_k_R=k, top_p_R=p, min_p_R=m, noise_QV=noise, noise_row_R=row)
    """
    (R, V), device = logits_RV.shape, logits_RV.device
    assert V <= 1 << 18, f"select_tokens: a vocabulary of {V} tokens; masses of at most 2^18 are summed"
    chunks = triton.cdiv(V, CHUNK)
    top = 0 if out_top_ids_RT is None else out_top_ids_RT.shape[1]
    logprobs = out_logprob_R is not None or top > 0

    def buffer(name: str, numel: int, dtype: torch.dtype) -> Tensor:
        return scratch(device, f"select_tokens.{name}", numel, dtype)

    chunk_max, chunk_sum = (buffer(name, R * chunks, torch.float32) for name in ("max", "sum"))
    chunk_best = buffer("best", R * chunks, torch.int64)
    count, mass = (buffer("spread", R * chunks * DISTANCES.value, dtype) for dtype in (torch.int32, torch.int64))
    listed, length = buffer("list", R * V, torch.int32), buffer("length", R, torch.int32)
    total = buffer("total", R, torch.int64)
    filters = (temperature_R, top_k_R, top_p_R, min_p_R)
    sizes = {"CHUNK": CHUNK, "TOP": top, "CHUNKS": triton.next_power_of_2(chunks)}
    options = {"num_warps": 8, **launch_options(logits_RV)}
    _scan_kernel[chunks, R](
        logits_RV, *filters, noise_QV, noise_row_R, chunk_max, chunk_sum, chunk_best, V, chunks,
        CHUNK=CHUNK, LOGPROBS=logprobs, **options,
    )  # fmt: skip
    _spread_kernel[chunks, R](logits_RV, *filters, chunk_max, count, mass, V, chunks, PART=PART, **sizes, **options)
    _gather_kernel[chunks, R](
        logits_RV, *filters, chunk_max, count, mass, listed, length, total, V, chunks, **sizes, **options
    )
    last = {"BLOCK": BLOCK, "CHUNKS": sizes["CHUNKS"]}
    _pick_kernel[R,](
        logits_RV, *filters, noise_QV, noise_row_R, chunk_max, chunk_best, listed, length, total, out_ids_R,
        V, chunks, **last, **{**options, "num_warps": 16},
    )  # fmt: skip
    if logprobs:
        _logprobs_kernel[R,](
            logits_RV, chunk_max, chunk_sum, listed, length, out_ids_R, out_logprob_R, out_top_ids_RT,
            out_top_logprobs_RT, V, chunks, TOP=top, **last, **options,
        )  # fmt: skip


def _specializations(chunks: int, top: int, pdl: bool) -> list[Specialization]:
    """All kernels for one number of chunks (a power of two) and of log-probabilities."""
    types = {
        "*fp32": "logits temperature top_p min_p noise chunk_max chunk_sum out_logprob out_top_logprobs",
        "*i32": "top_k noise_row count listed length out_ids out_top_ids",
        "*i64": "chunk_best mass total",
        "i32": "V chunks",
    }
    type_of = {name: type_ for type_, names in types.items() for name in names.split()}
    sizes = {"CHUNK": CHUNK, "CHUNKS": chunks, "PART": PART, "BLOCK": BLOCK, "TOP": top, "LOGPROBS": top > 0}
    constexprs = {**sizes, "PDL": pdl}
    return [
        Specialization(
            kernel,
            {name: type_of[name] for name in kernel.arg_names if name in type_of},
            {name: constexprs[name] for name in kernel.arg_names if name in constexprs},
            num_warps=16 if kernel is _pick_kernel else 8,
            divisible=tuple(name for name in kernel.arg_names if name in type_of and name != "chunks"),
            name=f"{chunks} chunks, top {top}{', pdl' * pdl}",
            min_arch=90 if pdl else 80,
        )
        for kernel in (_scan_kernel, _spread_kernel, _gather_kernel, _pick_kernel, _logprobs_kernel)
    ]


SPECIALIZATIONS = [
    spec
    for chunks, top, pdl in ((64, 20, False), (128, 0, False), (32, 20, True))
    for spec in _specializations(chunks, top, pdl)
]
