// The Python module pspec_rt._C: raw addresses and sizes in, no libtorch, so one build serves every torch.
#include "api/api.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of pspec_rt; call them through pspec_rt.ops.";
  pspec::api::bind_ops(m);
  pspec::api::bind_graph(m);
  pspec::api::bind_runtime(m);
  pspec::api::bind_testing(m);
}
