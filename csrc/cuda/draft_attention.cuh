// Attention of the draft rows: every warp streams a run of keys past 16 query rows of a KV head, straight from memory.
#pragma once

#include "draft_work.cuh"
#include "warp.cuh"

namespace pspec::cuda {

constexpr int kKeys = 16;       // of a step: the K of the second MMA
constexpr int kLeastKeys = 32;  // of a warp's run

// The work of a launch: units (slot, KV head, 16 query rows), each cut into at most `splits` runs of keys.
struct AttentionPlan {
  int ratio, tiles, units, splits;
  __host__ __device__ AttentionPlan(const DraftForwardParams& p, int warps)
      : ratio(p.H / p.G), tiles(((p.P + p.J) * ratio + 15) / 16), units(p.B * p.G * tiles),
        splits(units < warps ? warps / units : 1) {}
  __host__ __device__ int64_t partials() const { return static_cast<int64_t>(units) * splits; }
  // Keys of a run for a slot of so many rows, a multiple of kKeys.
  __device__ __forceinline__ int run(int keys) const {
    const int each = (keys + splits - 1) / splits;
    return (max(each, kLeastKeys) + kKeys - 1) / kKeys * kKeys;
  }
};

// Two bf16 that are finite, or zeros: rows that were written this round for nobody may hold anything.
__device__ __forceinline__ uint32_t finite(uint32_t pair) {
  if ((pair & 0x7f80u) == 0x7f80u) pair &= 0xffff0000u;
  if ((pair & 0x7f800000u) == 0x7f800000u) pair &= 0x0000ffffu;
  return pair;
}

// kE: halves of 64 in a head. Partial results: the unnormed output [16, E], then maxima and sums [16] each.
template <int kE>
__device__ __forceinline__ void attend(const DraftForwardParams& p, const DraftWork& work, const AttentionPlan& plan,
                                       int unit, int split) {
  constexpr int E = 64 * kE, kChunks = 2 * kE;
  const int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4, N = p.P + p.J;
  const int tile = unit % plan.tiles, g = unit / plan.tiles % p.G, b = unit / plan.tiles / p.G;
  const int prefix = p.prefix[b], keys = min(prefix + N, p.S), run = plan.run(keys);
  const int first = split * run, end = min(first + run, keys);
  if (first >= keys) return;

  uint4 q[kChunks][2];
  uint64_t word[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile * 16 + 8 * half + group, n = row / plan.ratio;
    const bool there = n < N;
    word[half] = there ? static_cast<uint64_t>(p.words[b * N + n]) : 0;
    const int head = g * plan.ratio + row % plan.ratio;
    const Bf16* at = work.q + ((b * N + n) * static_cast<int64_t>(p.H) + head) * E + 8 * quad;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      q[c][half] = there ? load_l2(reinterpret_cast<const uint4*>(at + 32 * c)) : make_uint4(0, 0, 0, 0);
    }
  }
  const int64_t cache = b * p.cache_stride_b + g * p.cache_stride_g;
  float out[kE][8][4] = {};  // column c of tile j is element 8 * c + j of the half: 16-byte loads of v serve 8 tiles
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  for (int key = first; key < end; key += kKeys) {
    // Loads of keys past the end take the last one's row; they are masked.
    uint4 k[2][kChunks];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const Bf16* at = p.k + cache + static_cast<int64_t>(min(key + 8 * u + group, end - 1)) * E + 8 * quad;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) k[u][c] = load_l2(reinterpret_cast<const uint4*>(at + 32 * c));
    }
    float score[2][4] = {};
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        mma_bf16(score[u], q[c][0].x, q[c][1].x, q[c][0].y, q[c][1].y, k[u][c].x, k[u][c].y);
        mma_bf16(score[u], q[c][0].z, q[c][1].z, q[c][0].w, q[c][1].w, k[u][c].z, k[u][c].w);
      }
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = most[half];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = key + i / 2 * 8 + 2 * quad + i % 2;
        const bool seen = word[half] != 0 && at < end && (at < prefix || (word[half] >> (at - prefix) & 1));
        float& s = score[i / 2][2 * half + i % 2];
        s = seen ? s * p.scale : -INFINITY;
        top = fmaxf(top, s);
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      shrink[half] = top == -INFINITY ? 1.0f : __expf(most[half] - top);
      most[half] = top;
      float added = 0.0f;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& s = score[i / 2][2 * half + i % 2];
        s = top == -INFINITY ? 0.0f : __expf(s - top);
        added += s;
      }
      sum[half] = sum[half] * shrink[half] + added;
    }
    const uint32_t weight[4] = {narrow(score[0][0], score[0][1]), narrow(score[0][2], score[0][3]),
                                narrow(score[1][0], score[1][1]), narrow(score[1][2], score[1][3])};
#pragma unroll
    for (int h = 0; h < kE; ++h) {
      uint32_t pairs[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // keys 2 quad, 2 quad + 1 of either eight
        const int row = min(key + i / 2 * 8 + 2 * quad + i % 2, end - 1);
        const Bf16* at = p.v + cache + static_cast<int64_t>(row) * E + 8 * group + 64 * h;
        const uint4 v = load_l2(reinterpret_cast<const uint4*>(at));
        const bool own = row >= prefix;
        pairs[i][0] = own ? finite(v.x) : v.x, pairs[i][1] = own ? finite(v.y) : v.y;
        pairs[i][2] = own ? finite(v.z) : v.z, pairs[i][3] = own ? finite(v.w) : v.w;
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float(&acc)[4] = out[h][j];
        acc[0] *= shrink[0], acc[1] *= shrink[0], acc[2] *= shrink[1], acc[3] *= shrink[1];
        const uint32_t halves = j % 2 ? 0x7632 : 0x5410;
        mma_bf16(acc, weight[0], weight[1], weight[2], weight[3], pick_bytes(pairs[0][j / 2], pairs[1][j / 2], halves),
                 pick_bytes(pairs[2][j / 2], pairs[3][j / 2], halves));
      }
    }
  }

  float* const partial = work.partial + (static_cast<int64_t>(unit) * plan.splits + split) * 16 * (E + 2);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 1);
    sum[half] += __shfl_xor_sync(kAllLanes, sum[half], 2);
    const int row = group + 8 * half;
    if (quad == 0) partial[16 * E + row] = most[half], partial[16 * E + 16 + row] = sum[half];
#pragma unroll
    for (int h = 0; h < kE; ++h) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // column 2 quad + i: eight elements side by side
        float4* const at = reinterpret_cast<float4*>(partial + row * E + 64 * h + 8 * (2 * quad + i));
        const int c = 2 * half + i;
        at[0] = make_float4(out[h][0][c], out[h][1][c], out[h][2][c], out[h][3][c]);
        at[1] = make_float4(out[h][4][c], out[h][5][c], out[h][6][c], out[h][7][c]);
      }
    }
  }
}

// A warp folds the runs of one query row (b, n, head), in their order.
template <int kE>
__device__ __forceinline__ void fold(const DraftForwardParams& p, const DraftWork& work, const AttentionPlan& plan,
                                     int item) {
  constexpr int E = 64 * kE;
  const int lane = threadIdx.x % 32, N = p.P + p.J;
  const int head = item % p.H, n = item / p.H % N, b = item / p.H / N;
  const int keys = min(p.prefix[b] + N, p.S), runs = (keys + plan.run(keys) - 1) / plan.run(keys);
  const int row = n * plan.ratio + head % plan.ratio, unit = (b * p.G + head / plan.ratio) * plan.tiles + row / 16;
  const float* const partial = work.partial + static_cast<int64_t>(unit) * plan.splits * 16 * (E + 2);
  const auto stat = [&](int run, int which) {
    return load_l2(partial + static_cast<int64_t>(run) * 16 * (E + 2) + 16 * (E + which) + row % 16);
  };
  float most = -INFINITY;
  for (int run = lane; run < runs; run += 32) most = fmaxf(most, stat(run, 0));
#pragma unroll
  for (int step = 1; step < 32; step *= 2) most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
  float sum = 0.0f, out[2 * kE] = {};
  for (int run = 0; run < runs && most != -INFINITY; ++run) {
    const float share = __expf(stat(run, 0) - most);
    sum += share * stat(run, 1);
    const float* const at = partial + static_cast<int64_t>(run) * 16 * (E + 2) + row % 16 * E + 2 * lane;
#pragma unroll
    for (int h = 0; h < kE; ++h) {
      const float2 pair = load_l2(reinterpret_cast<const float2*>(at + 64 * h));
      out[2 * h] += share * pair.x, out[2 * h + 1] += share * pair.y;
    }
  }
  const float scale = sum > 0.0f ? 1.0f / sum : sum == sum ? 0.0f : sum;  // a row that sees nothing: zeros
  Bf16* const to = work.attn + ((b * N + n) * static_cast<int64_t>(p.H) + head) * E + 2 * lane;
#pragma unroll
  for (int h = 0; h < kE; ++h) {
    *reinterpret_cast<uint32_t*>(to + 64 * h) = narrow(out[2 * h] * scale, out[2 * h + 1] * scale);
  }
}

}  // namespace pspec::cuda
