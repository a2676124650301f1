// Software versions of asynchronous copies and of the bf16 MMA, for matrix kernels under the emulation.
#pragma once

#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "emulation.h"

inline float __fsqrt_rn(float x) { return std::sqrt(x); }

namespace pspec::emulation {

inline uint16_t round_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Copies happen as late as CUDA allows, when their group is waited for: a missing wait shows as poison.
struct Copy {
  void* to;
  const void* from;
  bool inside;
};
struct Copies {
  uint64_t launch = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

inline Copies& own_copies() {
  static std::unordered_map<const Thread*, Copies> all;
  Copies& own = all[&self()];
  if (own.launch != machine().launches) own = Copies{machine().launches, {}, {}};
  return own;
}
inline void copy_later(void* to, const void* from, bool inside) { own_copies().open.push_back({to, from, inside}); }
inline void copy_commit() {
  Copies& own = own_copies();
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}
inline void copy_wait(int pending) {
  Copies& own = own_copies();
  while (static_cast<int>(own.groups.size()) > pending) {
    for (const Copy& copy : own.groups.front()) {
      if (copy.inside) std::memcpy(copy.to, copy.from, 16);
      else std::memset(copy.to, 0, 16);
    }
    own.groups.erase(own.groups.begin());
  }
}

// mma.sync.m16n8k16: lane 4g + t holds rows g and g + 8 of a, columns 2t, 2t + 1 and the same + 8; column g of b.
struct MmaOperands {
  uint32_t a[4], b[2];
};
inline float half_of(uint32_t pair, int high) { return __uint_as_float(high ? pair & 0xffff0000u : pair << 16); }
inline void mma_bf16(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  const auto all = exchange("mma", 0xffffffffu, MmaOperands{{a0, a1, a2, a3}, {b0, b1}});
  const int lane = self().lane(), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row_half = i / 2, column = 2 * t + i % 2;
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) {
      const int owner = k % 8 / 2;
      const float a = half_of(all.lane[4 * g + owner].a[row_half + k / 8 * 2], k % 2);
      sum += a * half_of(all.lane[4 * column + owner].b[k / 8], k % 2);
    }
    sums[i] += sum;
  }
}

}  // namespace pspec::emulation
