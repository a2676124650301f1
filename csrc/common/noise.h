// Gumbel noise that is the same bits on CPU, GPU and in torch: Philox counter -> uniform -> -log(-log1p(-u)).
//
// Every step is a single IEEE fp32 operation in a written order and no multiply-add is ever fused, so anything that
// repeats these operations (pspec_rt/ref/gumbel_noise.py, the Triton kernel) gets the same bits.
#pragma once

#include <cstring>

#include "philox.h"

namespace pspec {

// The _rn intrinsics are what keeps nvcc from fusing; on the CPU -ffp-contract=off does.
#if defined(__CUDA_ARCH__)
PSPEC_HD float mul(float a, float b) { return __fmul_rn(a, b); }
PSPEC_HD float add(float a, float b) { return __fadd_rn(a, b); }
PSPEC_HD float div(float a, float b) { return __fdiv_rn(a, b); }
#else
PSPEC_HD float mul(float a, float b) { return a * b; }
PSPEC_HD float add(float a, float b) { return a + b; }
PSPEC_HD float div(float a, float b) { return a / b; }
#endif

PSPEC_HD int32_t float_bits(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

PSPEC_HD float bits_float(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// log of a positive normal float, within 0.9 ulp. x = 2^k (1 + f), 1 + f in [sqrt(1/2), sqrt(2));
// log(1 + f) = f - f^2/2 + f^3 poly(f), poly = weighted minimax fit of degree 7, evaluated by Horner's rule.
PSPEC_HD float log_fixed(float x) {
  constexpr int32_t kSqrtHalfBits = 0x3f3504f3;
  constexpr float kLn2High = 0.693359375f;       // few bits: k * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;     // ln 2 - kLn2High
  const int32_t k = (float_bits(x) - kSqrtHalfBits) >> 23;
  const float f = add(bits_float(float_bits(x) - (k << 23)), -1.0f);
  const float kf = static_cast<float>(k);
  float poly = -0.07859805971384048f;
  poly = add(mul(poly, f), 0.1288125067949295f);
  poly = add(mul(poly, f), -0.13128481805324554f);
  poly = add(mul(poly, f), 0.14181239902973175f);
  poly = add(mul(poly, f), -0.16624590754508972f);
  poly = add(mul(poly, f), 0.2000228464603424f);
  poly = add(mul(poly, f), -0.25000810623168945f);
  poly = add(mul(poly, f), 0.33333316445350647f);
  const float f2 = mul(f, f);
  float y = mul(mul(poly, f), f2);
  y = add(y, mul(kf, kLn2Low));
  y = add(y, mul(-0.5f, f2));
  y = add(y, f);
  return add(y, mul(kf, kLn2High));
}

// Standard Gumbel value of 32 random bits. In fp32 the naive -log(-log u) is infinite once in a few hundred tokens
// and coarse for large values; u near 0 keeps full precision here because log1p does.
PSPEC_HD float gumbel_from_bits(uint32_t x) {
  constexpr float kTwoToMinus32 = 2.3283064365386963e-10f;
  constexpr float kLargestBelowOne = 0.99999994039535522f;  // 1 - 2^-24
  const float scaled = mul(add(static_cast<float>(x), 0.5f), kTwoToMinus32);
  const float u = scaled < kLargestBelowOne ? scaled : kLargestBelowOne;
  // log1p(z), z = -u: where rounding 1 + z lost bits of z, z / (w - 1) puts them back (Kahan).
  const float w = add(1.0f, -u);
  const float log1p = div(mul(log_fixed(w), -u), add(w, -1.0f));
  const float exponential = w == 1.0f ? u : -log1p;
  return -log_fixed(exponential);
}

// Random bits of the four vocabulary ids 4 * quad .. 4 * quad + 3 at absolute position t.
PSPEC_HD Philox4 noise_bits(uint64_t seed, int32_t t, uint32_t quad) {
  return philox4x32_10({{quad, static_cast<uint32_t>(t), 0, 0}}, static_cast<uint32_t>(seed),
                       static_cast<uint32_t>(seed >> 32));
}

}  // namespace pspec
