// A producer that stands in for rounds in the tests of the ring: what it emits is a function of round and slot.
#pragma once

#include <thread>

#include "ring.h"

namespace pspec {

// Token i of slot b in round r.
inline int32_t fake_token(uint32_t round, int64_t b, int64_t i) {
  return static_cast<int32_t>((round * 31 + static_cast<uint32_t>(b) * 7 + static_cast<uint32_t>(i)) & 0xfffff);
}

// Publishes `rounds` rounds, waiting whenever the ring is full. A cancelled slot emits nothing.
inline void fake_rounds(const Ring& ring, int64_t rounds) {
  for (int64_t published = 0; published < rounds;) {
    const uint32_t tail = ring_tail(ring);
    const bool full = ring_is_full(ring, tail);
    const uint32_t round = static_cast<uint32_t>(ring.control[kDeviceHead]);
    for (int64_t b = 0; b < ring.B && !full; ++b) {
      int32_t* slot = ring_slot(ring, b);
      const bool cancelled = ring_cancels(ring, b);
      slot[0] = cancelled ? 0 : static_cast<int32_t>(ring.P);
      slot[1] = static_cast<int32_t>(round);
      slot[2] = cancelled ? 5 : 0;
      for (int64_t i = 0; i < ring.P; ++i) ring_emitted(ring, b)[i] = cancelled ? -1 : fake_token(round, b, i);
    }
    ring_publish(ring, tail, static_cast<int>(ring.B));
    if (full) std::this_thread::yield();
    published += !full;
  }
}

}  // namespace pspec
