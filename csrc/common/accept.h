// Acceptance: walk the tree from the root for as long as a child is the token the target chose.
#pragma once

#include "hd.h"

namespace pspec {

enum Finished : int32_t { kRunning = 0, kStop = 1, kLength = 2, kIdle = 3 };

// One slot's tree and what the target says about it.
struct WalkInput {
  const int32_t* ids;       // [N]
  const int32_t* parent;    // [N], -1 for the root
  const int32_t* target;    // [N] target token after each node
  const int32_t* stop_ids;  // [Q], -1 unused
  int N, Q, P;
  int length;  // committed tokens before this round
  int limit;   // committed tokens at which the request ends
};

// Lowest-index child of `node` whose id is `token`, or -1. Children come after their parent. Ids < 0 mark "no
// candidate" and match nothing, not even a target of -1.
PSPEC_HD int find_child(const WalkInput& in, int node, int32_t token) {
  if (token < 0) return -1;
  for (int child = node + 1; child < in.N; ++child) {
    if (in.parent[child] == node && in.ids[child] == token) return child;
  }
  return -1;
}

PSPEC_HD Finished finish_reason(const WalkInput& in, int32_t token, int new_length) {
  for (int i = 0; i < in.Q; ++i) {
    if (in.stop_ids[i] == token && token >= 0) return kStop;
  }
  return new_length >= in.limit ? kLength : kRunning;
}

// Fills path[P] and emitted[P], both -1 padded; returns how many tokens were emitted (>= 1) and why it finished.
PSPEC_HD int walk(const WalkInput& in, int32_t* path, int32_t* emitted, Finished* finished) {
  int node = 0, count = 0;
  *finished = kRunning;
  while (node >= 0 && count < in.P && *finished == kRunning) {
    const int32_t token = in.target[node];
    path[count] = node;
    emitted[count] = token;
    ++count;
    *finished = finish_reason(in, token, in.length + count);
    node = find_child(in, node, token);
  }
  for (int i = count; i < in.P; ++i) path[i] = emitted[i] = -1;
  return count;
}

}  // namespace pspec
