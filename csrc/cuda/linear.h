// linear on a GPU: what the bindings and the tests call.
#pragma once

#include "../params.h"

namespace pspec::cuda {

// Rows of x up to which the norm happens inside; for more `normed` [R, I] is needed.
constexpr int64_t kFusedNormRows = 16;

// x, w, bias and norm in bf16, 16-byte aligned, I a multiple of 8; out in bf16 or fp32. pdl: the kernel may start
// while the one before it ends, if that allows it. stream: a cudaStream_t.
void linear(const LinearParams& params, void* normed, bool pdl, void* stream);

}  // namespace pspec::cuda
