// The Python module pspec_rt._C: raw addresses and sizes in, no libtorch, so one build serves every torch.
#include "api/api.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of pspec_rt; call them through pspec_rt.ops.";
  pspec::api::bind_ops(m);
#if PSPEC_WITH_CUDA
  pspec::api::bind_cuda_loop(m);
  pspec::api::bind_cuda_matrix(m);
#endif
  pspec::api::bind_graph(m);
  pspec::api::bind_ring(m);
  pspec::api::bind_runtime(m);
  pspec::api::bind_testing(m);
}
