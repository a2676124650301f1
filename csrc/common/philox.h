// Philox4x32-10, the counter-based random generator of Salmon et al. (SC 2011): no state, any draw at any time.
#pragma once

#include "hd.h"

namespace pspec {

struct Philox4 {
  uint32_t lane[4];
};

PSPEC_HD uint32_t mul_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

// Encrypts the counter under the 64-bit key (key0 = low half).
PSPEC_HD Philox4 philox4x32_10(Philox4 counter, uint32_t key0, uint32_t key1) {
  constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;    // multipliers of the two halves
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;  // key schedule: golden ratio, sqrt(3) - 1
  uint32_t c0 = counter.lane[0], c1 = counter.lane[1], c2 = counter.lane[2], c3 = counter.lane[3];
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = mul_high(kMul0, c0), low0 = kMul0 * c0;
    const uint32_t high1 = mul_high(kMul1, c2), low1 = kMul1 * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace pspec
