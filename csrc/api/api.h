// What the binding files share: each adds its functions to the module, with addresses as plain integers.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "../params.h"

namespace pspec::api {

void bind_ops(pybind11::module_& m);      // launches, one per kernel
void bind_cuda_loop(pybind11::module_& m);  // launches of CUDA kernels, where they are built
void bind_cuda_matrix(pybind11::module_& m);
void bind_graph(pybind11::module_& m);    // sequences of launches, recorded and replayed
void bind_ring(pybind11::module_& m);     // the host's side of the ring
void bind_runtime(pybind11::module_& m);  // threads, instruction set, build_info
void bind_testing(pybind11::module_& m);  // doors to csrc/common for the property tests

using Address = uint64_t;  // data_ptr of a tensor, 0 if absent
using ReleaseGil = pybind11::call_guard<pybind11::gil_scoped_release>;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

// Shapes and dtypes were checked in Python; this guards what would be a crash.
inline void check(bool holds, const char* text) {
  if (!holds) throw std::invalid_argument(text);
}

inline DType dtype(int code) {
  check(code == 0 || code == 1, "dtype code: expected 0 (float32) or 1 (bfloat16)");
  return static_cast<DType>(code);
}

// Of a weight matrix, which may be packed int8.
inline DType weight_dtype(int code) {
  check(code >= 0 && code <= 3, "dtype code of a weight: expected 0 (float32), 1 (bfloat16), 2 (int8) or 3 (int8a8)");
  return static_cast<DType>(code);
}

}  // namespace pspec::api
