// accept: walks each slot's tree along the target's tokens and commits them.
#include "../common/accept.h"

#include "launch.h"

namespace pspec::cpu {
namespace {

void accept_slot(const AcceptParams& p, int64_t b) {
  int32_t* path = p.path + b * p.P;
  int32_t* emitted = p.emitted + b * p.P;
  p.count[b] = 0;
  for (int64_t i = 0; i < p.P; ++i) path[i] = emitted[i] = -1;
  if (p.finished[b] != kRunning) return;

  const int32_t length = p.length[b];
  const WalkInput in = {p.ids + b * p.N,         p.parent + b * p.N,    p.target + b * p.N, p.stop_ids + b * p.Q,
                        static_cast<int>(p.N),   static_cast<int>(p.Q), static_cast<int>(p.P), length, p.limit[b]};
  Finished finished;
  const int count = walk(in, path, emitted, &finished);
  for (int i = 0; i < count && length + i < p.S; ++i) p.tokens[b * p.S + length + i] = emitted[i];
  p.count[b] = count;
  p.length[b] = length + count;
  p.bonus[b] = emitted[count - 1];
  p.finished[b] = finished;
}

}  // namespace

void accept(const AcceptParams& p) {
  for (int64_t b = 0; b < p.B; ++b) accept_slot(p, b);
}

}  // namespace pspec::cpu
