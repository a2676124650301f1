// A Python module of the emulated kernels for the tests: the CUDA bindings, run on the host.
#include "../../api/api.h"

#include "grid.h"

PYBIND11_MODULE(_emulated, m) {
  using namespace pspec::emulation;
  pspec::api::bind_cuda_loop(m);
  m.def("set_order", [](int order, unsigned seed) { set_order(static_cast<Order>(order), seed); });
  m.def("launches", [] { return machine().launches; });
  m.def("take_conditional", [] {  // handle, value, calls of cudaGraphSetConditional since the last look
    const auto seen = machine().conditional;
    machine().conditional = {};
    return std::make_tuple(seen.handle, seen.value, seen.calls);
  });
}
