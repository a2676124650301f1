// The weights a thread is about to read, on their way into its L2 cache.
//
// A tile reads 16 rows side by side, which the hardware does not foresee; and what it does foresee ends with the page.
// So a thread asks for its weights in the order of memory, but some pages side by side: the start of one is hidden
// behind the others.
#pragma once

#include <cstdint>

namespace pspec {

struct Bytes {
  const char* begin;
  const char* end;
};

struct WeightStream {
  const Bytes* ranges;  // what the thread reads, in order
  const Bytes* end;
  const char* block;    // pages of the first range that are fetched side by side
  int64_t at;           // how far in each of them
  int64_t ahead;        // bytes fetched and not used yet
};

constexpr int64_t kPageBytes = 4096, kLineBytes = 64;
constexpr int64_t kPagesAtOnce = 8;
constexpr int64_t kStepBytes = 1024;        // fetched at a time: two lines of each page
constexpr int64_t kLeastAhead = 32 << 10;   // less would come too late
constexpr int64_t kMostAhead = 128 << 10;   // more is held by no L2 for certain

// Static, as every function here is compiled for several instruction sets.
static inline const char* page_of(const char* address) {
  return address - reinterpret_cast<uintptr_t>(address) % kPageBytes;
}

// At least one range. What it begins with is wanted at once, and not fetched.
static inline WeightStream stream_of(const Bytes* ranges, const Bytes* end) {
  return {ranges, end, page_of(ranges->begin + kLeastAhead), 0, kLeastAhead};
}

static inline void fetch_step(WeightStream& s) {
  while (s.ranges != s.end && s.block >= s.ranges->end) {
    if (++s.ranges == s.end) break;
    s.block = page_of(s.ranges->begin);
    s.at = 0;
  }
  if (s.ranges == s.end) return;
  const uint64_t size = s.ranges->end - s.ranges->begin;
  for (int64_t page = 0; page < kPagesAtOnce; ++page) {
    for (int64_t byte = 0; byte < kStepBytes / kPagesAtOnce; byte += kLineBytes) {
      const char* line = s.block + page * kPageBytes + s.at + byte;
      if (static_cast<uint64_t>(line - s.ranges->begin) >= size) continue;
      __builtin_prefetch(line, 0, 2);
      s.ahead += kLineBytes;
    }
  }
  s.at += kStepBytes / kPagesAtOnce;
  if (s.at == kPageBytes) s.at = 0, s.block += kPagesAtOnce * kPageBytes;
}

// A step's bytes are used now.
static inline void use_step(WeightStream& s) {
  s.ahead -= kStepBytes;
  fetch_step(s);
  if (s.ahead < kLeastAhead) fetch_step(s);
}

// Between two pieces of work that use none.
static inline void fetch_meanwhile(WeightStream* s) {
  if (s != nullptr && s->ahead < kMostAhead) fetch_step(*s);
}

}  // namespace pspec
