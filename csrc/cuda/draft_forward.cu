// draft_forward on a GPU: the whole pass of a one-layer feature drafter in one launch.
//
// A block per multiprocessor runs the phases below, with a barrier of the grid between any two. Before a barrier it
// already asks for the next weights: a product's first copies go out, other phases bring its first tile into L2.
#include "draft_forward.h"

#include <type_traits>

#include "draft_head.cuh"
#include "grid_barrier.cuh"
#include "matrix_launch.cuh"

namespace pspec::cuda {
namespace {

// Products have their weights in `product_of`; the others are short.
enum Phase {
  kGather,  // joined inputs, and the mask rows
  kInputs,
  kInputNorm,
  kQkv,  // and rotary embedding, and the cache's new rows
  kAttend,
  kFold,
  kOutput,
  kPostNorm,
  kGateUp,
  kDown,
  kFinalNorm,
  kHead,
  kMerge,
  kPhases
};

__device__ __forceinline__ Stream product_of(const DraftForwardParams& p, const DraftWork& work, int phase) {
  const int R = p.B * (p.P + p.J), HE = p.H * p.E, half = p.E / 2;
  switch (phase) {
    case kInputs: return {p.fc, work.joined, nullptr, p.B * p.P, p.Z + p.F, 0, {p.M, 0, 0}};
    case kQkv: return {p.qkv, work.normed, nullptr, R, p.M, 0, {(p.H + 2 * p.G) * half, half, half}};
    case kOutput: return {p.o, work.attn, nullptr, R, HE, 0, {p.M, 0, 0}};
    case kGateUp: return {p.gate_up, work.normed, nullptr, R, p.M, 0, {p.I, p.I, 0}};
    case kDown: return {p.down, work.mlp, nullptr, R, p.I, 0, {p.M, 0, 0}};
    case kHead: return {p.head, work.predicting, nullptr, p.B * p.K, p.M, 0, {p.D, 0, 0}};
    default: return {};
  }
}

__device__ __forceinline__ bool is_product(int phase) {
  return phase == kInputs || phase == kQkv || phase == kOutput || phase == kGateUp || phase == kDown || phase == kHead;
}

// Values of kM, as `rows_per_tile` wants them: with 64 tokens, 4 would not leave registers for the rest.
template <int kN>
constexpr unsigned kTiles = kN == 8 ? 0b110 : 0b10110;

// What happens with the sums of two rows of a product's weight; see `stream_weights`.
struct Finish {
  const DraftForwardParams& p;
  const DraftWork& work;
  HeadState& head;
  int phase, half;

  __device__ __forceinline__ void one(int token, int64_t output, float sum) const {
    const int N = p.P + p.J;
    if (phase == kInputs) {
      if (p.fc_bias != nullptr) sum += widen(p.fc_bias[output]);
      work.residual[(token / p.P * N + token % p.P) * static_cast<int64_t>(p.M) + output] = narrow(sum);
    } else {
      Bf16* const at = work.residual + token * static_cast<int64_t>(p.M) + output;
      *at = narrow(widen(load_l2(at)) + widen(narrow(sum)));
    }
  }
  __device__ __forceinline__ void rotate(int token, int64_t row, float a, float b) const {
    const int E = p.E, N = p.P + p.J, head_index = static_cast<int>(row / E), e = static_cast<int>(row % E);
    a = widen(narrow(a)), b = widen(narrow(b));
    if (head_index < p.H + p.G) {
      const int position = min(max(p.positions[token], 0), p.max_positions - 1);
      const float cos = p.cos[position * static_cast<int64_t>(E / 2) + e];
      const float sin = p.sin[position * static_cast<int64_t>(E / 2) + e];
      const float turned = a * cos - b * sin;
      b = b * cos + a * sin;
      a = turned;
    }
    Bf16* at = work.q + (token * static_cast<int64_t>(p.H) + head_index) * E + e;
    if (head_index >= p.H) {
      const int b_index = token / N, cache_row = p.prefix[b_index] + token % N;
      if (cache_row >= p.S) return;
      const bool key = head_index < p.H + p.G;
      const int g = head_index - p.H - (key ? 0 : p.G);
      at = (key ? p.k : p.v) + b_index * p.cache_stride_b + g * p.cache_stride_g;
      at += static_cast<int64_t>(cache_row) * E + e;
    }
    at[0] = narrow(a);
    at[E / 2] = narrow(b);
  }
  __device__ __forceinline__ void operator()(const TileRows& rows, int token, int row, float a, float b) const {
    const bool both = row < rows.second_left;
    if (phase == kQkv) {
      rotate(token, rows.first + row, a, b);
    } else if (phase == kGateUp) {
      const float gate = widen(narrow(a)), up = widen(narrow(b));
      work.mlp[token * static_cast<int64_t>(p.I) + rows.first + row] = narrow(gate / (1.0f + __expf(-gate)) * up);
    } else if (phase == kHead) {
      head.values[token][row] = ranked(p, token, static_cast<int>(rows.first) + row, a);
      if (both) head.values[token][half + row] = ranked(p, token, static_cast<int>(rows.second) + row, b);
    } else {
      one(token, rows.first + row, a);
      if (both) one(token, rows.second + row, b);
    }
  }
};

// Shared memory: the head's part, and what streams take.
struct Shared {
  HeadState& head;
  unsigned char* memory;
  int bytes;
};

template <int kM, int kN>
__device__ __forceinline__ void run_product(const DraftForwardParams& p, const DraftWork& work, Stream stream,
                                            const Shared& shared, GridBarrier& barrier, int phase) {
  stream.stages = StreamSize<kM, kN, false>::stages(shared.bytes);
  const auto before_tokens = [&]() -> const float* {
    barrier.wait();
    return nullptr;
  };
  const auto after = [&](const TileRows& rows) {
    if (phase != kHead) return;
    __syncthreads();
    for (int t = threadIdx.x / 32; t < stream.R; t += kWarps) take_tile(shared.head, rows, 8 * kM, t, p.C);
  };
  const Finish finish{p, work, shared.head, phase, 8 * kM};
  stream_weights<kM, kN, false>(stream, shared.memory, before_tokens, finish, after);
}

template <int kN>
__device__ __forceinline__ void product(const DraftForwardParams& p, const DraftWork& work, const Shared& shared,
                                        GridBarrier& barrier, int phase, const Stream& stream) {
  switch (rows_per_tile(stream.map, gridDim.x, kTiles<kN>)) {
    case 1: return run_product<1, kN>(p, work, stream, shared, barrier, phase);
    case 2: return run_product<2, kN>(p, work, stream, shared, barrier, phase);
    default: return run_product<kN == 8 ? 1 : 4, kN>(p, work, stream, shared, barrier, phase);
  }
}

// The block's first tile of a product's weight on its way to L2.
template <int kN>
__device__ __forceinline__ void prefetch_weights(const Stream& s) {
  constexpr int kLine = 64;  // elements
  const int half = 8 * rows_per_tile(s.map, gridDim.x, kTiles<kN>);
  if (static_cast<int>(blockIdx.x) >= s.map.tiles(half)) return;
  const TileRows rows = s.map.tile(blockIdx.x, half);
  const int lines = (s.I + kLine - 1) / kLine;
  for (int i = threadIdx.x; i < 2 * half * lines; i += kThreads) {
    const int row = i / lines, column = i % lines * kLine;
    const bool second = row >= half;
    const int at = second ? row - half : row;
    if (at < (second ? rows.second_left : rows.left)) {
      prefetch_l2(s.w + ((second ? rows.second : rows.first) + at) * s.I + column);
    }
  }
}

__device__ __forceinline__ uint4 load_8(const Bf16* at) { return load_l2(reinterpret_cast<const uint4*>(at)); }

__device__ __forceinline__ void gather(const DraftForwardParams& p, const DraftWork& work) {
  const int first = blockIdx.x * kThreads + threadIdx.x, all = gridDim.x * kThreads;
  const int W = p.Z + p.F, N = p.P + p.J, pieces = W / 8, mask_pieces = p.M / 8;
  for (int i = first; i < p.B * p.P * pieces; i += all) {
    const int row = i / pieces, column = i % pieces * 8;
    const int id = min(max(p.ids[row], 0), p.table_rows - 1);
    const Bf16* const from = column < p.Z ? p.table + static_cast<int64_t>(id) * p.Z + column
                                          : p.features + static_cast<int64_t>(row) * p.F + column - p.Z;
    *reinterpret_cast<uint4*>(work.joined + static_cast<int64_t>(row) * W + column) = load_8(from);
  }
  for (int i = first; i < p.B * p.J * mask_pieces; i += all) {
    const int row = i / mask_pieces, column = i % mask_pieces * 8, j = row % p.J;
    const int64_t to = static_cast<int64_t>(row / p.J * N + p.P + j) * p.M + column;
    *reinterpret_cast<uint4*>(work.residual + to) = load_8(p.masks + static_cast<int64_t>(j) * p.M + column);
  }
}

// A block's normed row.
__device__ __forceinline__ void norm_by_block(const Bf16* row, const Bf16* weight, int M, float eps, Bf16* out,
                                              float* shared) {
  float sum = 0.0f;
  for (int column = threadIdx.x * 8; column < M; column += kThreads * 8) {
    const uint4 x = load_8(row + column);
    for (const uint32_t pair : {x.x, x.y, x.z, x.w}) {
      sum += widen_low(pair) * widen_low(pair) + widen_high(pair) * widen_high(pair);
    }
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  const float scale = rsqrtf(add_warps(shared, 1) / static_cast<float>(M) + eps);
  for (int column = threadIdx.x * 8; column < M; column += kThreads * 8) {
    const uint4 w = *reinterpret_cast<const uint4*>(weight + column);
    *reinterpret_cast<uint4*>(out + column) = normed(load_8(row + column), scale, w);
  }
  __syncthreads();
}

__device__ __forceinline__ void norm_rows(const DraftForwardParams& p, const DraftWork& work, int phase,
                                          float* shared) {
  const bool last = phase == kFinalNorm;
  const int rows = last ? p.B * p.K : p.B * (p.P + p.J);
  const Bf16* const weight = last ? p.norm : phase == kInputNorm ? p.input_norm : p.post_norm;
  for (int r = blockIdx.x; r < rows; r += gridDim.x) {
    const int64_t from = last ? r / p.K * (p.P + p.J) + p.take[r] : r;
    norm_by_block(work.residual + from * p.M, weight, p.M, p.eps,
                  (last ? work.predicting : work.normed) + static_cast<int64_t>(r) * p.M, shared);
  }
}

__device__ __forceinline__ void attention(const DraftForwardParams& p, const DraftWork& work, const AttentionPlan& plan,
                                          int phase) {
  const int warps = gridDim.x * kWarps, first = threadIdx.x / 32 * gridDim.x + blockIdx.x;
  const int count = phase == kAttend ? plan.units * plan.splits : p.B * (p.P + p.J) * p.H;
  for (int i = first; i < count; i += warps) {
    if (phase == kAttend) {
      if (p.E == 64) attend<1>(p, work, plan, i % plan.units, i / plan.units);
      else attend<2>(p, work, plan, i % plan.units, i / plan.units);
    } else if (p.E == 64) {
      fold<1>(p, work, plan, i);
    } else {
      fold<2>(p, work, plan, i);
    }
  }
}

__device__ __forceinline__ void start_head(HeadState& head) {
  for (int i = threadIdx.x; i < kMaxTokens * kMaxCandidates; i += kThreads) {
    head.best[i / kMaxCandidates][i % kMaxCandidates] = 0;
  }
  for (int i = threadIdx.x; i < kMaxTokens; i += kThreads) head.sums[i] = make_float2(-INFINITY, 0.0f);
  __syncthreads();
}

__device__ __forceinline__ void publish_head(const DraftForwardParams& p, const DraftWork& work,
                                             const HeadState& head) {
  const int tokens = p.B * p.K;
  __syncthreads();
  for (int i = threadIdx.x; i < tokens * p.C; i += kThreads) {
    work.keys[static_cast<int64_t>(blockIdx.x) * tokens * p.C + i] = head.best[i / p.C][i % p.C];
  }
  for (int i = threadIdx.x; i < tokens; i += kThreads) work.sums[blockIdx.x * tokens + i] = head.sums[i];
}

__device__ __forceinline__ void merge_all(const DraftForwardParams& p, const DraftWork& work, unsigned char* memory) {
  for (int t = blockIdx.x; t < p.B * p.K; t += gridDim.x) merge(p, work, reinterpret_cast<uint64_t*>(memory), t);
}

template <int kN>
__global__ void __launch_bounds__(kThreads, 1)
draft_forward_kernel(const __grid_constant__ DraftForwardParams p, const __grid_constant__ DraftWork work,
                     const __grid_constant__ AttentionPlan plan, const int bytes) {
  PSPEC_DYNAMIC_SHARED(unsigned char, all_shared);
  HeadState& head = *reinterpret_cast<HeadState*>(all_shared);
  const Shared shared{head, all_shared + sizeof(HeadState), bytes};
  GridBarrier barrier(p.work);
  for (int phase = 0; phase < kPhases; ++phase) {
    const Stream stream = product_of(p, work, phase);
    if (is_product(phase)) {
      if (phase == kHead) start_head(head);
      product<kN>(p, work, shared, barrier, phase, stream);
      if (phase == kHead) publish_head(p, work, head);
    } else {
      const int next = phase == kAttend ? kOutput : phase + 1;
      if (is_product(next)) prefetch_weights<kN>(product_of(p, work, next));
      if (phase == kGather) {
        let_next_kernel_start();
        wait_for_previous_kernel();
        gather(p, work);
      } else {
        barrier.wait();
        if (phase == kAttend || phase == kFold) attention(p, work, plan, phase);
        else if (phase == kMerge) merge_all(p, work, shared.memory);
        else norm_rows(p, work, phase, head.values[0]);
      }
    }
    if (phase + 1 < kPhases) barrier.arrive();
  }
}

static_assert(sizeof(HeadState) % 128 == 0, "the stream's memory is aligned");
static_assert(StreamSize<4, 4, false>::stages(kUsualShared - sizeof(HeadState)) >= 2);
static_assert(StreamSize<2, 8, false>::stages(kUsualShared - sizeof(HeadState)) >= 2);

template <int kN>
void launch(const DraftForwardParams& p, const Gpu& gpu, bool pdl, cudaStream_t stream) {
  const int bytes = gpu.shared_bytes - static_cast<int>(sizeof(HeadState)), grid = gpu.multiprocessors;
  const AttentionPlan plan(p, grid * kWarps);
  const DraftWork work(p, plan.partials(), grid);
  PSPEC_LAUNCH_RESIDENT((draft_forward_kernel<kN>), grid, gpu.shared_bytes, pdl, stream, p, work, plan,
                        bytes);
}

}  // namespace

DraftForwardParams draft_forward_params(const uint64_t* addresses, const int64_t* sizes, float eps, float scale) {
  DraftForwardParams p = {};
  const auto one_pointer = [&](auto*& member) {
    member = reinterpret_cast<std::remove_reference_t<decltype(member)>>(static_cast<uintptr_t>(*addresses++));
  };
  const auto one_size = [&](auto& member) {
    member = static_cast<std::remove_reference_t<decltype(member)>>(*sizes++);
  };
  const auto to = [&](auto*&... pointers) { (one_pointer(pointers), ...); };
  const auto size = [&](auto&... members) { (one_size(members), ...); };
  to(p.ids, p.features, p.masks, p.positions, p.prefix, p.words, p.take, p.fc, p.fc_bias, p.table, p.input_norm, p.qkv,
     p.o, p.post_norm, p.gate_up, p.down, p.norm, p.head, p.cos, p.sin, p.k, p.v, p.out_ids, p.out_scores,
     p.temperature, p.noise, p.noise_row, p.id_map, p.work);
  size(p.B, p.P, p.J, p.K, p.F, p.Z, p.table_rows, p.V, p.M, p.H, p.G, p.E, p.S, p.I, p.D, p.C, p.max_positions,
       p.cache_stride_b, p.cache_stride_g);
  p.eps = eps;
  p.scale = scale;
  return p;
}

const char* draft_forward_misfit(const DraftForwardParams& p) {
  if (p.B * (p.P + p.J) > 64 || p.B * p.K > kMaxTokens) return "more than 64 rows";
  if (p.E != 64 && p.E != 128) return "a head size other than 64 and 128";
  if (p.M % 8 != 0 || p.I % 8 != 0 || p.Z % 8 != 0 || p.F % 8 != 0) return "a width that is no multiple of 8";
  if (p.C > kMaxCandidates) return "more than 16 candidates";
  if (current_gpu().shared_bytes < kUsualShared) return "a GPU with less than 163 KB of shared memory for a block";
  return nullptr;
}

int64_t draft_forward_work_bytes(const DraftForwardParams& p) {
  const int grid = current_gpu().multiprocessors;
  return DraftWork(p, AttentionPlan(p, grid * kWarps).partials(), grid).bytes;
}

void draft_forward(const DraftForwardParams& p, bool pdl, void* to_stream) {
  const auto stream = static_cast<cudaStream_t>(to_stream);
  const Gpu gpu = current_gpu();
  const int rows = p.B * (p.P + p.J);
  if (rows <= 16) return launch<2>(p, gpu, pdl, stream);
  if (rows <= 32) return launch<4>(p, gpu, pdl, stream);
  launch<8>(p, gpu, pdl, stream);
}

}  // namespace pspec::cuda
