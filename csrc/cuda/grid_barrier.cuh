// A barrier of all blocks of a launch, in memory: an ordinary launch may use it if all of its blocks are resident.
#pragma once

#include "ptx.cuh"

namespace pspec::cuda {

// `state` is two words, zeros before the first launch; every barrier leaves `arrived` at zero, so launches of any
// grid may follow each other. Work that waits for nothing goes between `arrive` and `wait`.
class GridBarrier {
 public:
  __device__ __forceinline__ explicit GridBarrier(unsigned char* state)
      : arrived_(reinterpret_cast<unsigned*>(state)), round_(arrived_ + 1), seen_(0) {}

  __device__ __forceinline__ void arrive() {
    __syncthreads();
    if (threadIdx.x != 0) return;
    seen_ = *static_cast<volatile unsigned*>(round_);
    __threadfence();  // what the block wrote is seen by whoever sees it arrive
    if (atomicAdd(arrived_, 1u) + 1 == gridDim.x) {
      *static_cast<volatile unsigned*>(arrived_) = 0;
      __threadfence();
      *static_cast<volatile unsigned*>(round_) = seen_ + 1;
    }
  }
  __device__ __forceinline__ void wait() {
    if (threadIdx.x == 0) {
      while (*static_cast<volatile unsigned*>(round_) == seen_) __nanosleep(20);
      __threadfence();
    }
    __syncthreads();
  }

 private:
  unsigned *arrived_, *round_, seen_;
};

}  // namespace pspec::cuda
