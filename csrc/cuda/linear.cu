// linear on a GPU: weights stream through shared memory past the tokens, one order of sums for every row count.
#include "linear.h"

#include <algorithm>

#include "matrix_launch.cuh"
#include "weight_stream.cuh"

namespace pspec::cuda {
namespace {

// out's dtype is looked at when it runs: a kernel for each would take twice as long to compile.
struct Epilogue {
  const LinearParams& p;
  bool wide;  // out is fp32

  // Value of an output as the op's next step reads it: rounded to out's dtype.
  __device__ __forceinline__ float rounded(float x) const { return wide ? x : widen(narrow(x)); }
  __device__ __forceinline__ float biased(float sum, int64_t row) const {
    return p.bias == nullptr ? sum : __fadd_rn(sum, widen(static_cast<const Bf16*>(p.bias)[row]));
  }
  __device__ __forceinline__ void store(int token, int64_t output, float value) const {
    const int64_t at = token * p.O + output;
    if (wide) {
      float* const out = static_cast<float*>(p.out) + at;
      *out = p.add ? __fadd_rn(*out, value) : value;
    } else {
      Bf16* const out = static_cast<Bf16*>(p.out) + at;
      *out = narrow(p.add ? __fadd_rn(widen(*out), rounded(value)) : value);
    }
  }
  __device__ __forceinline__ void operator()(const TileRows& rows, int token, int row, float a, float b) const {
    a = biased(a, rows.first + row);
    if (p.gated) {
      const float gate = rounded(a), up = rounded(biased(b, rows.second + row));
      return store(token, rows.first + row, __fmul_rn(__fdiv_rn(gate, 1.0f + __expf(-gate)), up));
    }
    store(token, rows.first + row, a);
    if (row < rows.second_left) store(token, rows.second + row, biased(b, rows.second + row));
  }
};

template <int kM, int kN, bool kNorm>
__global__ void __launch_bounds__(kThreads, 1) linear_kernel(const LinearParams p, const int stages) {
  PSPEC_DYNAMIC_SHARED(unsigned char, memory);
  using Size = StreamSize<kM, kN, kNorm>;
  const auto bf16 = [](const void* at) { return static_cast<const Bf16*>(at); };
  const int O = static_cast<int>(p.O), R = static_cast<int>(p.R), I = static_cast<int>(p.I);
  const Stream stream{bf16(p.w), bf16(p.x), bf16(p.norm), R, I, stages, RowMap{O, p.gated ? O : 0, 0}};
  const auto before_tokens = [&]() -> const float* {
    let_next_kernel_start();
    wait_for_previous_kernel();
    if (!kNorm) return nullptr;
    float* const scales = reinterpret_cast<float*>(memory) + 2 * Size::kSums;
    for (int r = threadIdx.x / 32; r < Size::kTokens; r += kWarps) {
      const float scale = r < R ? rms_scale(bf16(p.x) + r * p.I, I, p.eps) : 0.0f;
      if (threadIdx.x % 32 == 0) scales[r] = scale;
    }
    __syncthreads();
    return scales;
  };
  const auto nothing = [](const TileRows&) {};
  const Epilogue finish{p, p.out_dtype == DType::kFloat32};
  stream_weights<kM, kN, kNorm>(stream, memory, before_tokens, finish, nothing);
}

__global__ void __launch_bounds__(kThreads) norm_kernel(const LinearParams p, Bf16* out) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int64_t row = blockIdx.x * kWarps + threadIdx.x / 32;
  if (row >= p.R) return;
  norm_row(static_cast<const Bf16*>(p.x) + row * p.I, static_cast<const Bf16*>(p.norm), static_cast<int>(p.I), p.eps,
           out + row * p.I);
}

static_assert(StreamSize<4, 8, false>::stages(kUsualShared) >= 2 && StreamSize<1, 8, false>::stages(99 << 10) >= 2);

template <int kM, int kN, bool kNorm>
void launch_tile(const LinearParams& p, const Gpu& gpu, bool pdl, cudaStream_t stream) {
  using Size = StreamSize<kM, kN, kNorm>;
  const int stages = Size::stages(gpu.shared_bytes);
  const int row_tiles = static_cast<int>((p.R + Size::kTokens - 1) / Size::kTokens);
  const int items = RowMap{static_cast<int>(p.O), p.gated ? 1 : 0, 0}.tiles(8 * kM) * row_tiles;
  PSPEC_LAUNCH_RESIDENT((linear_kernel<kM, kN, kNorm>), std::min(items, gpu.multiprocessors), Size::bytes(stages), pdl,
                        stream, p, stages);
}

template <int kM>
void launch_tokens(const LinearParams& p, const Gpu& gpu, bool pdl, cudaStream_t stream) {
  if (p.norm != nullptr) {
    return p.R <= 8 ? launch_tile<kM, 1, true>(p, gpu, pdl, stream) : launch_tile<kM, 2, true>(p, gpu, pdl, stream);
  }
  if (p.R <= 8) return launch_tile<kM, 1, false>(p, gpu, pdl, stream);
  if (p.R <= 16) return launch_tile<kM, 2, false>(p, gpu, pdl, stream);
  if (p.R <= 32) return launch_tile<kM, 4, false>(p, gpu, pdl, stream);
  launch_tile<kM, 8, false>(p, gpu, pdl, stream);
}

}  // namespace

void linear(const LinearParams& params, void* normed, bool pdl, void* to_stream) {
  const auto stream = static_cast<cudaStream_t>(to_stream);
  LinearParams p = params;
  if (p.R == 0 || p.O == 0) return;
  const Gpu gpu = current_gpu();
  if (p.norm != nullptr && p.R > kFusedNormRows) {
    const int blocks = static_cast<int>((p.R + kWarps - 1) / kWarps);
    PSPEC_LAUNCH_RESIDENT(norm_kernel, blocks, 0, pdl, stream, p, static_cast<Bf16*>(normed));
    p.x = normed;
    p.norm = nullptr;
  }
  // GPUs with less shared memory have it for the smallest tile.
  const unsigned tiles = gpu.shared_bytes >= kUsualShared ? 0b11110 : 0b10;
  switch (rows_per_tile(RowMap{static_cast<int>(p.O), p.gated ? 1 : 0, 0}, gpu.multiprocessors, tiles)) {
    case 1: return launch_tokens<1>(p, gpu, pdl, stream);
    case 2: return launch_tokens<2>(p, gpu, pdl, stream);
    case 3: return launch_tokens<3>(p, gpu, pdl, stream);
    default: return launch_tokens<4>(p, gpu, pdl, stream);
  }
}

}  // namespace pspec::cuda
