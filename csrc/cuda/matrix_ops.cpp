// Bindings of the CUDA kernels that multiply matrices.
#include <pybind11/stl.h>

#include <vector>

#include "../api/api.h"
#include "draft_forward.h"
#include "linear.h"

namespace pspec::api {
namespace {

using Int = int64_t;

void cuda_linear(Address x, Address w, Address bias, Address norm, Address out, Int R, Int I, Int O, float eps,
                 bool gated, bool add, int x_dtype, int w_dtype, int out_dtype, Address normed, bool pdl,
                 Address stream) {
  check(R >= 0 && I > 0 && I % 8 == 0 && O >= 0, "cuda_linear: sizes must be positive, in a multiple of 8");
  check(dtype(x_dtype) == DType::kBFloat16 && dtype(w_dtype) == DType::kBFloat16, "cuda_linear: x and w must be bf16");
  check((x | w | norm) % 16 == 0, "cuda_linear: x, w and norm must be 16-byte aligned");
  check(norm == 0 || R <= cuda::kFusedNormRows || normed != 0, "cuda_linear: so many rows need memory for the norm");
  cuda::linear({pointer<void>(x), pointer<void>(w), pointer<void>(bias), pointer<void>(norm), pointer<void>(out), R, I,
                O, eps, gated, add, dtype(x_dtype), dtype(w_dtype), dtype(out_dtype)},
               pointer<void>(normed), pdl, pointer<void>(stream));
}

cuda::DraftForwardParams draft_params(const std::vector<Address>& addresses, const std::vector<Int>& sizes, float eps,
                                      float scale) {
  check(addresses.size() == cuda::kDraftPointers && sizes.size() == cuda::kDraftSizes,
        "cuda_draft_forward: another number of arguments is expected");
  return cuda::draft_forward_params(addresses.data(), sizes.data(), eps, scale);
}

Int cuda_draft_forward_bytes(const std::vector<Int>& sizes) {
  return cuda::draft_forward_work_bytes(draft_params(std::vector<Address>(cuda::kDraftPointers), sizes, 0.0f, 0.0f));
}

void cuda_draft_forward(const std::vector<Address>& addresses, const std::vector<Int>& sizes, float eps, float scale,
                        bool pdl, Address stream) {
  const cuda::DraftForwardParams params = draft_params(addresses, sizes, eps, scale);
  const char* const misfit = cuda::draft_forward_misfit(params);
  check(misfit == nullptr, misfit);
  cuda::draft_forward(params, pdl, pointer<void>(stream));
}

}  // namespace

void bind_cuda_matrix(pybind11::module_& m) {
  m.def("cuda_linear", cuda_linear, ReleaseGil());
  m.def("cuda_draft_forward_bytes", cuda_draft_forward_bytes);
  m.def("cuda_draft_forward", cuda_draft_forward);
}

}  // namespace pspec::api
