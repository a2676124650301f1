// Doors to the matrix kernels under the emulation, for ctypes; each returns "" or what went wrong.
#include <cstring>
#include <exception>
#include <string>

#include "cuda/draft_forward.h"
#include "cuda/linear.h"

#define DOOR extern "C" __attribute__((visibility("default")))

namespace {

std::string message;

template <typename Run>
const char* guarded(Run run) {
  message.clear();
  try {
    run();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

}  // namespace

DOOR void set_order(int order, unsigned seed) {
  pspec::emulation::set_order(static_cast<pspec::emulation::Order>(order), seed);
}

DOOR const char* run_linear(const void* x, const void* w, const void* bias, const void* norm, void* out, int64_t R,
                            int64_t I, int64_t O, float eps, bool gated, bool add, int out_dtype, void* normed) {
  return guarded([&] {
    const auto bf16 = pspec::DType::kBFloat16;
    pspec::cuda::linear({x, w, bias, norm, out, R, I, O, eps, gated, add, bf16, bf16, static_cast<pspec::DType>(out_dtype)},
                        normed, false, nullptr);
  });
}

DOOR int64_t draft_forward_bytes(const int64_t* sizes) {
  const uint64_t none[pspec::cuda::kDraftPointers] = {};
  return pspec::cuda::draft_forward_work_bytes(pspec::cuda::draft_forward_params(none, sizes, 0.0f, 0.0f));
}

DOOR const char* run_draft_forward(const uint64_t* addresses, const int64_t* sizes, float eps, float scale) {
  return guarded([&] {
    const auto params = pspec::cuda::draft_forward_params(addresses, sizes, eps, scale);
    if (const char* why = pspec::cuda::draft_forward_misfit(params)) throw std::invalid_argument(why);
    pspec::cuda::draft_forward(params, false, nullptr);
  });
}
