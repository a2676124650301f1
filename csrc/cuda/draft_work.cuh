// Memory between the phases of draft_forward.
#pragma once

#include "draft_forward.h"
#include "ptx.cuh"

namespace pspec::cuda {

constexpr int kMaxCandidates = 16;
constexpr int kBarrierBytes = 128;

struct DraftWork {
  // [B*P, W], [R, M] twice, [R, H*E] twice, [R, I], [B*K, M]
  Bf16 *joined, *residual, *normed, *q, *attn, *mlp, *predicting;
  float* partial;  // attention's runs, see there
  uint64_t* keys;  // [grid, B*K, C] best of each block, descending
  float2* sums;    // [grid, B*K] largest value of a block and sum of exp(value - it)
  int64_t bytes;

  __host__ __device__ DraftWork(const DraftForwardParams& p, int64_t partials, int grid) {
    const int64_t R = static_cast<int64_t>(p.B) * (p.P + p.J), Q = static_cast<int64_t>(p.B) * p.K, HE = p.H * p.E;
    bytes = kBarrierBytes;
    joined = take<Bf16>(p.work, static_cast<int64_t>(p.B) * p.P * (p.Z + p.F));
    residual = take<Bf16>(p.work, R * p.M);
    normed = take<Bf16>(p.work, R * p.M);
    q = take<Bf16>(p.work, R * HE);
    attn = take<Bf16>(p.work, R * HE);
    mlp = take<Bf16>(p.work, R * p.I);
    predicting = take<Bf16>(p.work, Q * p.M);
    partial = take<float>(p.work, partials * 16 * (p.E + 2));
    keys = take<uint64_t>(p.work, grid * Q * p.C);
    sums = take<float2>(p.work, grid * Q);
  }

 private:
  template <typename T>
  __host__ __device__ T* take(unsigned char* work, int64_t count) {
    T* const at = reinterpret_cast<T*>(work + bytes);
    bytes += (count * static_cast<int64_t>(sizeof(T)) + 127) / 128 * 128;
    return at;
  }
};

}  // namespace pspec::cuda
