// Acceptance: walk the tree from the root for as long as a child is the token the target chose.
#pragma once

#include "hd.h"

namespace pspec {

enum Finished : int32_t { kRunning = 0, kStop = 1, kLength = 2, kIdle = 3, kError = 4, kCancelled = 5 };

// Whether node `node` of a tree is a child of `parent` that is `token`. Ids < 0 mark "no candidate" and match nothing.
PSPEC_HD bool is_child(int32_t node_parent, int32_t node_id, int parent, int32_t token) {
  return node_parent == parent && node_id == token && token >= 0;
}

// Walks one slot's tree; returns how many tokens were emitted (1..P) and why the slot finished, if it did. `length`
// tokens were committed before; at `limit` the request ends. The tree answers, in whatever way suits its machine:
//   target(node)              the target's token after the node; < 0: its logits were NaN
//   child(node, token)        lowest-index child of the node that is the token, or -1
//   is_stop(token)
//   emit(i, node, token)      number i of the path
template <typename Tree>
PSPEC_HD int walk(const Tree& tree, int P, int length, int limit, Finished* finished) {
  int node = 0, count = 0;
  *finished = kRunning;
  while (node >= 0 && count < P && *finished == kRunning) {
    const int32_t token = tree.target(node);
    tree.emit(count, node, token);
    ++count;
    *finished = token < 0                  ? kError
                : tree.is_stop(token)      ? kStop
                : length + count >= limit  ? kLength
                                           : kRunning;
    node = tree.child(node, token);
  }
  return count;
}

}  // namespace pspec
