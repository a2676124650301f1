// move_rows on a GPU: all buffers and sequences in one launch.
#include "column_moves.cuh"
#include "launch.cuh"
#include "loop_ops.h"

namespace pspec::cuda {
namespace {

template <typename Column>
__global__ void __launch_bounds__(kMoveThreads) move_columns(MoveRowsParams p) {
  const unsigned columns = static_cast<unsigned>(p.row_bytes / static_cast<int64_t>(sizeof(Column)));
  const unsigned thread = blockIdx.x * kMoveThreads + threadIdx.x, job = thread / columns;
  if (job >= p.L * p.B) return;
  const unsigned b = job % static_cast<unsigned>(p.B);
  const int32_t *const from = p.from + b * p.P, *const to = p.to + b * p.P;
  Column* const column = reinterpret_cast<Column*>(static_cast<uintptr_t>(p.buffers[job / p.B])) + thread % columns;
  move_column(column, columns, 0, static_cast<int>(p.P),
              [=](int i) { return from[i] < 0 ? RowMove{0, 0} : RowMove{from[i], to[i]}; });
}

}  // namespace

// The buffers' addresses are not known here: allocations are aligned to more than a column.
void move_rows(const MoveRowsParams& p, void* stream) {
  with_widest_column(static_cast<uint64_t>(p.row_bytes), [&](auto column) {
    using Column = decltype(column);
    const unsigned blocks = move_blocks(p.L * p.B * p.row_bytes / static_cast<int64_t>(sizeof(Column)));
    if (blocks == 0) return;
    PSPEC_LAUNCH((move_columns<Column>), blocks, kMoveThreads, 0, static_cast<cudaStream_t>(stream), p);
  });
}

}  // namespace pspec::cuda
