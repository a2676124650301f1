// draft_rows on a GPU: a block per slot, a thread per row.
#include "../common/rows.h"

#include "../common/tree.h"
#include "launch.cuh"
#include "loop_ops.h"

namespace pspec::cuda {
namespace {

__global__ void __launch_bounds__(kMaxNodes) fill_rows(DraftRowsParams p) {
  if (threadIdx.x < p.N) draft_row(p, blockIdx.x, threadIdx.x);
}

}  // namespace

void draft_rows(const DraftRowsParams& p, void* stream) {
  if (p.B == 0) return;
  PSPEC_LAUNCH(fill_rows, static_cast<unsigned>(p.B), kMaxNodes, 0, static_cast<cudaStream_t>(stream), p);
}

}  // namespace pspec::cuda
