// The output head of draft_forward: the best tokens of every block as its logits come, then of all blocks.
#pragma once

#include "draft_attention.cuh"
#include "weight_stream.cuh"

namespace pspec::cuda {

constexpr int kMaxTokens = 32;  // that predict: half of the rows

// In shared memory, beside the stream's.
struct HeadState {
  uint64_t best[kMaxTokens][kMaxCandidates];  // keys, descending; 0: none
  float2 sums[kMaxTokens];                    // largest value and sum of exp(value - it)
  float values[kMaxTokens][64];               // of a tile
};

// Larger values first, then lower indices; 0 for what cannot be chosen.
__device__ __forceinline__ uint64_t key_of(float value, int index) {
  if (!(value > -INFINITY)) return 0;
  return static_cast<uint64_t>(ordered_bits(value)) << 32 | static_cast<uint32_t>(~index);
}
__device__ __forceinline__ float value_of(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}
__device__ __forceinline__ int index_of(uint64_t key) { return static_cast<int>(~static_cast<uint32_t>(key)); }

template <typename T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_xor_sync(kAllLanes, x, step);
    x = other > x ? other : x;
  }
  return x;
}
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// logit / T + noise where the row samples; NaN counts as -inf.
__device__ __forceinline__ float ranked(const DraftForwardParams& p, int token, int index, float logit) {
  float value = logit;
  const float temperature = p.temperature == nullptr ? 0.0f : p.temperature[token];
  if (temperature > 0.0f) {
    const int64_t id = p.id_map == nullptr ? index : p.id_map[index];
    value = __fdiv_rn(logit, temperature) + p.noise[static_cast<int64_t>(p.noise_row[token]) * p.V + id];
  }
  return value == value ? value : -INFINITY;
}

// A warp takes one token's values of a tile into the block's best and sum.
__device__ __forceinline__ void take_tile(HeadState& state, const TileRows& rows, int half, int token, int C) {
  const int lane = threadIdx.x % 32;
  uint64_t key[2] = {};
  float value[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = lane + 32 * i;
    const bool second = at >= half;
    if (at >= 2 * half || at - (second ? half : 0) >= (second ? rows.second_left : rows.left)) continue;
    value[i] = state.values[token][at];
    key[i] = key_of(value[i], static_cast<int>(second ? rows.second + at - half : rows.first + at));
  }
  const float2 before = state.sums[token];
  const float most = fmaxf(before.x, warp_max(fmaxf(value[0], value[1])));
  uint64_t best = lane < C ? state.best[token][lane] : 0;
  if (most > -INFINITY) {
    const float added = warp_sum(__expf(value[0] - most) + __expf(value[1] - most));
    if (lane == 0) state.sums[token] = make_float2(most, before.y * __expf(before.x - most) + added);
  }
  for (;;) {
    const uint64_t next = warp_max(key[0] > key[1] ? key[0] : key[1]);
    if (next <= __shfl_sync(kAllLanes, best, C - 1)) break;
    const int place = __popc(__ballot_sync(kAllLanes, lane < C && best > next));
    const uint64_t above = __shfl_up_sync(kAllLanes, best, 1);
    if (lane >= place) best = lane == place ? next : above;
    if (key[0] == next) key[0] = 0;
    if (key[1] == next) key[1] = 0;
  }
  if (lane < C) state.best[token][lane] = best;
}

// The block picks a token's best among those of all blocks. `memory` holds grid * C keys.
__device__ __forceinline__ void merge(const DraftForwardParams& p, const DraftWork& work, uint64_t* memory, int token) {
  const int tokens = p.B * p.K, blocks = gridDim.x, count = blocks * p.C, lane = threadIdx.x % 32;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    memory[i] = load_l2(work.keys + (static_cast<int64_t>(i / p.C) * tokens + token) * p.C + i % p.C);
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  float most = -INFINITY, sum = 0.0f;
  for (int block = lane; block < blocks; block += 32) most = fmaxf(most, load_l2(work.sums + block * tokens + token).x);
  most = warp_max(most);
  for (int block = lane; block < blocks && most > -INFINITY; block += 32) {
    const float2 part = load_l2(work.sums + block * tokens + token);
    sum += part.y * __expf(part.x - most);
  }
  const float log_sum = most + __logf(warp_sum(sum));
  uint64_t last = ~static_cast<uint64_t>(0);
  for (int c = 0; c < p.C; ++c) {
    uint64_t next = 0;
    for (int i = lane; i < count; i += 32) {
      if (memory[i] < last && memory[i] > next) next = memory[i];
    }
    last = warp_max(next);
    if (lane != 0) continue;
    const int index = index_of(last);
    p.out_ids[token * p.C + c] = last == 0 ? -1 : p.id_map == nullptr ? index : p.id_map[index];
    p.out_scores[token * p.C + c] = (last == 0 ? -INFINITY : value_of(last)) - log_sum;
  }
}

}  // namespace pspec::cuda
