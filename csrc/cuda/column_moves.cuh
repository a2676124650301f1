// Rows moved in place by threads that own a column of a few bytes each.
//
// Nobody else reads what such a thread writes, so moves can go in its own order: ascending, several rows read before the
// first of them is written. Reads that are not waited for one by one are what makes this fast. It is safe where doing
// one move after the other is: see common/compact.h.
#pragma once

#include "../common/compact.h"

namespace pspec::cuda {

constexpr int kMoveThreads = 128;
constexpr int kMoveGroup = 8;  // rows read together

// Moves first .. end - 1 of a column; consecutive rows are `stride` columns apart. move_of(i) with from == to: nothing.
template <typename Column, typename MoveOf>
__device__ __forceinline__ void move_column(Column* column, int64_t stride, int first, int end, MoveOf move_of) {
  for (; first < end; first += kMoveGroup) {
    RowMove move[kMoveGroup];
    Column held[kMoveGroup];
#pragma unroll
    for (int i = 0; i < kMoveGroup; ++i) move[i] = first + i < end ? move_of(first + i) : RowMove{0, 0};
#pragma unroll
    for (int i = 0; i < kMoveGroup; ++i) {
      if (move[i].from != move[i].to) held[i] = column[move[i].from * stride];
    }
#pragma unroll
    for (int i = 0; i < kMoveGroup; ++i) {
      if (move[i].from != move[i].to) column[move[i].to * stride] = held[i];
    }
  }
}

// Calls launch(Column{}) with the widest column that rows of so many bytes at these addresses allow.
template <typename Launch>
void with_widest_column(uint64_t addresses_and_sizes, Launch launch) {
  if (addresses_and_sizes % sizeof(uint4) == 0) {
    launch(uint4{});
  } else if (addresses_and_sizes % sizeof(uint32_t) == 0) {
    launch(uint32_t{});
  } else {
    launch(uint8_t{});
  }
}

inline unsigned move_blocks(int64_t threads) { return static_cast<unsigned>((threads + kMoveThreads - 1) / kMoveThreads); }

}  // namespace pspec::cuda
