"""gumbel_noise in Triton: sampling noise with the bits of csrc/common/noise.h, a program per row and block of ids."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import Specialization, device_function, launch_options

QUADS = 256  # counters of a program, each giving four neighbouring ids their noise: 16-byte stores
FP_FUSION = False  # a fused multiply-add rounds once where the definition rounds twice


@device_function
def _log(x):
    """Natural logarithm of positive normal numbers, operation by operation `log_fixed` of csrc/common/noise.h."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    exponent = exponent.to(tl.float32)
    poly = f * -0.07859805971384048 + 0.1288125067949295
    poly = poly * f - 0.13128481805324554
    poly = poly * f + 0.14181239902973175
    poly = poly * f - 0.16624590754508972
    poly = poly * f + 0.2000228464603424
    poly = poly * f - 0.25000810623168945
    poly = poly * f + 0.33333316445350647
    f2 = f * f
    y = poly * f * f2 + exponent * -2.12194440e-4
    y = y + f2 * -0.5
    y = y + f
    return y + exponent * 0.693359375


@device_function
def _gumbel(bits):
    """-log(-log1p(-u)) of the uniform u that 32 random bits stand for."""
    u = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994039535522)
    w = 1.0 - u
    # Where rounding 1 - u lost bits of u, u / (1 - w) puts them back (Kahan).
    log1p = tl.div_rn(_log(w) * -u, w - 1.0)
    exponential = tl.where(w == 1.0, u, -log1p)
    return _log(exponential) * -1.0  # unlike 0 - x, which Triton's minus is, this turns 0.0 into -0.0


@triton.jit
def _gumbel_noise_kernel(
    seed, first_position, out, P, V,
    QUADS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)  # b * P + p
    quad = tl.program_id(0) * QUADS + tl.arange(0, QUADS)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    b = row // P
    position = (tl.load(first_position + b) + row % P).to(tl.uint32, bitcast=True)
    zero = (quad * 0).to(tl.uint32)
    x0, x1, x2, x3 = tl.philox(tl.load(seed + b), quad.to(tl.uint32), zero + position, zero, zero)
    bits = tl.interleave(tl.interleave(x0, x2), tl.interleave(x1, x3))  # x0 x1 x2 x3 of a counter, then of the next
    id = tl.program_id(0) * (4 * QUADS) + tl.arange(0, 4 * QUADS)
    tl.store(out + row.to(tl.int64) * V + id, _gumbel(bits), mask=id < V)


def gumbel_noise(seed_B: Tensor, first_position_B: Tensor, out_BPV: Tensor) -> None:
    """out[b, p, v] = gumbel(seed[b], first_position[b] + p, v); see `pspec_rt.ops.gumbel_noise`.

    Args:
        seed_B: [B] int64, a 64-bit pattern.
        first_position_B: [B] int32.
        out_BPV: [B, P, V] fp32 written, contiguous; the bits do not depend on B, P or V.

    Example:
        noise = torch.empty(1, 9, 128256, device="cuda")
        gumbel_noise(torch.tensor([7], device="cuda"), torch.tensor([100], dtype=torch.int32, device="cuda"), noise)
    """
    B, P, V = out_BPV.shape
    options = launch_options(out_BPV, fp_fusion=FP_FUSION)
    _gumbel_noise_kernel[triton.cdiv(V, 4 * QUADS), B * P](
        seed_B, first_position_B, out_BPV, P, V, QUADS=QUADS, num_warps=4, **options
    )


SPECIALIZATIONS = [
    Specialization(
        _gumbel_noise_kernel,
        {"seed": "*i64", "first_position": "*i32", "out": "*fp32", "P": "i32", "V": "i32"},
        {"QUADS": QUADS, "PDL": pdl},
        divisible=("seed", "first_position", "out", "V"),
        name="pdl" if pdl else "",
        fp_fusion=FP_FUSION,
        min_arch=90 if pdl else 80,
    )
    for pdl in (False, True)
]
