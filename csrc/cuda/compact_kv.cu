// compact_kv on a GPU: all layers, heads and slots in one launch.
#include "column_moves.cuh"
#include "launch.cuh"
#include "loop_ops.h"

namespace pspec::cuda {
namespace {

template <typename Column>
__global__ void __launch_bounds__(kMoveThreads) compact_columns(CompactKvParams p) {
  const unsigned columns = static_cast<unsigned>(p.row_bytes / static_cast<int64_t>(sizeof(Column)));
  const unsigned thread = blockIdx.x * kMoveThreads + threadIdx.x, head = thread / columns;
  if (head >= p.L2 * p.B * p.G) return;
  const unsigned b = head / static_cast<unsigned>(p.G) % static_cast<unsigned>(p.B);
  const int32_t* const path = p.path + b * p.P;
  const int32_t count = p.count[b], length = p.length[b];
  Column* const column = reinterpret_cast<Column*>(p.kv + head * p.S * p.row_bytes) + thread % columns;
  move_column(column, columns, 1, count, [=](int i) { return row_move(path, count, length, i); });
}

}  // namespace

void compact_kv(const CompactKvParams& p, void* stream) {
  with_widest_column(reinterpret_cast<uintptr_t>(p.kv) | static_cast<uint64_t>(p.row_bytes), [&](auto column) {
    using Column = decltype(column);
    const unsigned blocks = move_blocks(p.L2 * p.B * p.G * p.row_bytes / static_cast<int64_t>(sizeof(Column)));
    if (blocks == 0) return;
    PSPEC_LAUNCH((compact_columns<Column>), blocks, kMoveThreads, 0, static_cast<cudaStream_t>(stream), p);
  });
}

}  // namespace pspec::cuda
