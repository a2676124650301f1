// Gumbel noise over a range of the vocabulary, in blocks the compiler turns into vector code.
#pragma once

#include "../../common/noise.h"
#include "kernels.h"

namespace pspec::PSPEC_ISA {

// first and last need not be multiples of four; ids outside [first, last) are not written.
static void gumbel(uint64_t seed, int32_t position, int64_t first, int64_t last, float* out) {
  constexpr int64_t kQuads = 16;  // counters per block, one per vector lane
  for (int64_t quad = first / 4; quad * 4 < last; quad += kQuads) {
    uint32_t bits[4][kQuads];
    for (int64_t i = 0; i < kQuads; ++i) {
      const Philox4 draw = noise_bits(seed, position, static_cast<uint32_t>(quad + i));
      for (int lane = 0; lane < 4; ++lane) bits[lane][i] = draw.lane[lane];
    }
    float value[4 * kQuads];
    for (int lane = 0; lane < 4; ++lane) {
      for (int64_t i = 0; i < kQuads; ++i) value[4 * i + lane] = gumbel_from_bits(bits[lane][i]);
    }
    const int64_t begin = quad * 4 < first ? first : quad * 4;
    const int64_t end = (quad + kQuads) * 4 < last ? (quad + kQuads) * 4 : last;
    memcpy(out + begin, value + (begin - quad * 4), (end - begin) * sizeof(float));
  }
}

}  // namespace pspec::PSPEC_ISA
