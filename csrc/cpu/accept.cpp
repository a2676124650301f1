// accept: walks each slot's tree along the target's tokens, commits them, and publishes them to the ring.
#include "../common/accept.h"

#include "../common/ring.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

struct Tree {
  const AcceptParams& p;
  int64_t b;

  int32_t target(int node) const { return p.target[b * p.N + node]; }
  int child(int node, int32_t token) const {
    const int64_t first = b * p.N;
    for (int n = node + 1; n < p.N; ++n) {  // children come after their parent
      if (is_child(p.parent[first + n], p.ids[first + n], node, token)) return n;
    }
    return -1;
  }
  bool is_stop(int32_t token) const {
    for (int64_t i = b * p.Q; i < (b + 1) * p.Q; ++i) {
      if (p.stop_ids[i] == token) return true;
    }
    return false;
  }
  void emit(int i, int node, int32_t token) const {
    p.path[b * p.P + i] = node;
    p.emitted[b * p.P + i] = token;
    const int64_t position = p.length[b] + i;
    if (position < p.S) p.tokens[b * p.S + position] = token;
  }
};

// Emits nothing for a slot that has finished or been cancelled, nor (`held`) for any.
void accept_slot(const AcceptParams& p, int64_t b, bool held, bool cancelled) {
  p.count[b] = 0;
  for (int64_t i = b * p.P; i < (b + 1) * p.P; ++i) p.path[i] = p.emitted[i] = -1;
  if (held || p.finished[b] != kRunning) return;
  if (cancelled) {
    p.finished[b] = kCancelled;
    return;
  }
  Finished finished;
  const int count = walk(Tree{p, b}, static_cast<int>(p.P), p.length[b], p.limit[b], &finished);
  p.count[b] = count;
  p.length[b] += count;
  p.bonus[b] = p.emitted[b * p.P + count - 1];
  p.finished[b] = finished;
}

void write_record(const AcceptParams& p, const Ring& ring, int64_t b, bool was_running) {
  int32_t drafted = 0;
  for (int64_t n = b * p.N + 1; n < (b + 1) * p.N; ++n) drafted += was_running && p.ids[n] >= 0;
  int32_t* slot = ring_slot(ring, b);
  slot[0] = p.count[b];
  slot[1] = drafted;
  slot[2] = p.finished[b];
  for (int64_t i = 0; i < p.P; ++i) ring_emitted(ring, b)[i] = p.emitted[b * p.P + i];
}

}  // namespace

void accept(const AcceptParams& p) {
  const Ring ring = {p.ring_words, p.ring_control, p.ring_capacity, p.B, p.P};
  const bool publishes = ring.words != nullptr;
  const uint32_t tail = publishes ? ring_tail(ring) : 0;
  const bool full = publishes && ring_is_full(ring, tail);
  int running = 0;
  for (int64_t b = 0; b < p.B; ++b) {
    const bool was_running = p.finished[b] == kRunning;
    accept_slot(p, b, full, publishes && ring_cancels(ring, b));
    running += p.finished[b] == kRunning;
    if (publishes && !full) write_record(p, ring, b, was_running);
  }
  if (publishes) ring_publish(ring, tail, running);
}

}  // namespace pspec::cpu
