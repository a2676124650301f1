// The ring: what each round emitted, handed from the device to the host without either waiting for the other.
//
// One producer (`accept`, once a round), one consumer. A record is complete before `head` counts it, and is not
// overwritten before `tail` frees it. All words are int32; on a GPU they lie in pinned host memory mapped into it.
//
//   [0] head: rounds published   [16] tail: rounds consumed   [32 ..] cancel[B], padded to 16 words
//   then `capacity` (a power of two) records, each padded to 16 words:
//     round, clock (low, high; nanoseconds), running slots;  B x (count, drafted, finished);  emitted [B][P], -1 padded
//
// `control` lies in the device's own memory: [0] rounds left in this burst, [1] whether another round may run,
// [2, 3] handle of the graph node that loops (0: none), [4] head, so that the device need not read it over the bus.
#pragma once

#include "hd.h"

#if !defined(__CUDA_ARCH__)
#include <chrono>
#endif

namespace pspec {

// Visible to the other side, and ordered: what was written before a store_release is seen after a load_acquire.
#if defined(__CUDA_ARCH__)
PSPEC_HD void store_release(int32_t* at, int32_t value) {
  asm volatile("st.release.sys.s32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}
PSPEC_HD int32_t load_acquire(const int32_t* at) {
  int32_t value;
  asm volatile("ld.acquire.sys.s32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
PSPEC_HD int64_t clock_ns() {
  int64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}
#else
PSPEC_HD void store_release(int32_t* at, int32_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
PSPEC_HD int32_t load_acquire(const int32_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
PSPEC_HD int64_t clock_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}
#endif

constexpr int kHeadWord = 0, kTailWord = 16, kCancelWord = 32;
constexpr int kRecordHead = 4, kWordsPerSlot = 3;
constexpr int kBurstLeft = 0, kGo = 1, kHandle = 2, kDeviceHead = 4;  // of `control`

PSPEC_HD int64_t padded_words(int64_t words) { return (words + 15) / 16 * 16; }
PSPEC_HD int64_t record_words(int64_t B, int64_t P) { return padded_words(kRecordHead + kWordsPerSlot * B + B * P); }
PSPEC_HD int64_t ring_words(int64_t B, int64_t P, int64_t capacity) {
  return kCancelWord + padded_words(B) + capacity * record_words(B, P);
}

struct Ring {
  int32_t* words;    // null: no ring
  int32_t* control;  // [8]
  int64_t capacity, B, P;
};

PSPEC_HD int32_t* ring_record(const Ring& ring, uint32_t round) {
  const int64_t index = round & static_cast<uint32_t>(ring.capacity - 1);
  return ring.words + kCancelWord + padded_words(ring.B) + index * record_words(ring.B, ring.P);
}

// Producer, once, before a round changes anything: with no free record it must change nothing.
PSPEC_HD uint32_t ring_tail(const Ring& ring) { return static_cast<uint32_t>(load_acquire(ring.words + kTailWord)); }
PSPEC_HD bool ring_is_full(const Ring& ring, uint32_t tail) {
  return static_cast<uint32_t>(ring.control[kDeviceHead]) - tail >= static_cast<uint32_t>(ring.capacity);
}

PSPEC_HD bool ring_cancels(const Ring& ring, int64_t b) { return load_acquire(ring.words + kCancelWord + b) != 0; }

// Where the producer writes slot b of the record that comes next.
PSPEC_HD int32_t* ring_slot(const Ring& ring, int64_t b) {
  return ring_record(ring, static_cast<uint32_t>(ring.control[kDeviceHead])) + kRecordHead + kWordsPerSlot * b;
}
PSPEC_HD int32_t* ring_emitted(const Ring& ring, int64_t b) { return ring_slot(ring, ring.B) + b * ring.P; }

// One thread, after all slots' words are written: publishes the record unless the ring was full, and returns whether
// the device may go on by itself: rounds of the burst left, slots running, a free record for the next round.
PSPEC_HD bool ring_publish(const Ring& ring, uint32_t tail, int running) {
  uint32_t head = static_cast<uint32_t>(ring.control[kDeviceHead]);
  if (!ring_is_full(ring, tail)) {
    int32_t* record = ring_record(ring, head);
    const int64_t now = clock_ns();
    record[0] = static_cast<int32_t>(head);
    record[1] = static_cast<int32_t>(now);
    record[2] = static_cast<int32_t>(now >> 32);
    record[3] = running;
    ring.control[kDeviceHead] = static_cast<int32_t>(++head);
    store_release(ring.words + kHeadWord, static_cast<int32_t>(head));
  }
  const int32_t left = ring.control[kBurstLeft] > 0 ? ring.control[kBurstLeft] - 1 : 0;
  const bool go = left > 0 && running > 0 && !ring_is_full(ring, tail);
  ring.control[kBurstLeft] = left;
  ring.control[kGo] = go;
  return go;
}

}  // namespace pspec
