// Bindings of the host's side of the ring (common/ring.h): wait for a round, free a record, cancel a slot.
#include "../common/ring.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "api.h"

namespace pspec::api {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

// Polls until `head` is not `seen` or the time is over; returns `head`. At first often, as a round may be microseconds
// away, then at longer and longer intervals, as a thread that spins would take the core of one that computes.
uint32_t ring_wait(Address words, uint32_t seen, int64_t timeout_us) {
  const int32_t* at = pointer<int32_t>(words) + kHeadWord;
  const auto end = steady_clock::now() + microseconds(timeout_us);
  constexpr int kPolls = 64;
  constexpr microseconds kLongest{100};
  for (int poll = 0;; ++poll) {
    const uint32_t head = static_cast<uint32_t>(load_acquire(at));
    if (head != seen || steady_clock::now() >= end) return head;
    if (poll < kPolls) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::min(microseconds(poll - kPolls + 1), kLongest));
    }
  }
}

void ring_store(Address words, int64_t index, uint32_t value) {
  check(index >= 0, "ring_store: the index is not negative");
  store_release(pointer<int32_t>(words) + index, static_cast<int32_t>(value));
}

}  // namespace

void bind_ring(pybind11::module_& m) {
  m.def("ring_wait", ring_wait, ReleaseGil());
  m.def("ring_store", ring_store);
}

}  // namespace pspec::api
