// Kernels that try the emulation itself; `broken` takes a barrier out, so that a test can see it missed.
#include "cuda/launch.cuh"

namespace {

// out[i] = in[block's threads reversed], through static and dynamic shared memory.
__global__ void reverse_block(const int* in, int* out, bool broken) {
  __shared__ int first[64];
  PSPEC_DYNAMIC_SHARED(int, second);
  const int t = threadIdx.x, n = blockDim.x, base = blockIdx.x * n;
  first[t] = in[base + t];
  if (!broken) __syncthreads();
  second[t] = first[n - 1 - t];
  __syncthreads();
  out[base + t] = second[t];
}

__global__ void write_past(int n) {
  PSPEC_DYNAMIC_SHARED(int, shared);
  shared[n] = 1;
}

// Lane l: sum over the warp, the value of lane l ^ 5, of lane l - 1, of lane 0 of its group of 8, the ballot of odd values.
__global__ void warp_ops(const int* in, int* out) {
  const int t = threadIdx.x;
  const int value = in[t];
  int sum = value;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
  out[t] = __shfl_sync(0xffffffffu, sum, 0);
  out[64 + t] = __shfl_xor_sync(0xffffffffu, value, 5);
  out[128 + t] = __shfl_up_sync(0xffffffffu, value, 1);
  out[192 + t] = __shfl_sync(0xffffffffu, value, 0, 8);
  out[256 + t] = static_cast<int>(__ballot_sync(0xffffffffu, value & 1));
  // The halves of a warp go different ways, and meet again.
  const unsigned half = t % 32 < 16 ? 0xffffu : 0xffff0000u;
  out[320 + t] = t % 32 < 16 ? __reduce_add_sync(half, value) : __reduce_max_sync(half, value);
  __syncwarp();
}

// Some lanes never come.
__global__ void lost_lane() {
  if (threadIdx.x != 3) __syncwarp();
}

// Every block adds to `total`, waits for all others at a barrier of the grid, then reads it.
__global__ void grid_sum(int* counter, int* total, int* out) {
  __shared__ int mine;  // each block has its own
  if (threadIdx.x == 0) mine = blockIdx.x + 1;
  __syncthreads();
  if (threadIdx.x == 1) atomicAdd(total, mine);
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicAdd(counter, 1);
    while (*static_cast<volatile int*>(counter) < static_cast<int>(gridDim.x)) __nanosleep(20);
  }
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = *static_cast<volatile int*>(total) * 100 + mine;
}

// Threads that have ended are no longer waited for.
__global__ void early_exit(int* out) {
  if (threadIdx.x >= 10) return;
  out[threadIdx.x] = __syncthreads_count(threadIdx.x % 2);
}

char error[200];

template <typename Run>
const char* guarded(Run run) {
  try {
    run();
    return "";
  } catch (const std::exception& e) {
    std::strncpy(error, e.what(), sizeof error - 1);
    return error;
  }
}

}  // namespace

#define DOOR extern "C" __attribute__((visibility("default")))

DOOR void set_order(int order, unsigned seed) {
  pspec::emulation::set_order(static_cast<pspec::emulation::Order>(order), seed);
}
DOOR const char* run_reverse(const int* in, int* out, int blocks, int threads, bool broken) {
  return guarded([&] { PSPEC_LAUNCH(reverse_block, blocks, threads, threads * 4, nullptr, in, out, broken); });
}
DOOR const char* run_write_past(int n) {
  return guarded([&] { PSPEC_LAUNCH(write_past, 1, 1, 64, nullptr, n); });
}
DOOR const char* run_warp_ops(const int* in, int* out) {
  return guarded([&] { PSPEC_LAUNCH(warp_ops, 1, 64, 0, nullptr, in, out); });
}
DOOR const char* run_lost_lane() {
  return guarded([&] { PSPEC_LAUNCH(lost_lane, 1, 32, 0, nullptr); });
}
DOOR const char* run_grid_sum(int* counter, int* total, int* out, int blocks, bool cooperative) {
  return guarded([&] {
    if (cooperative) {
      PSPEC_LAUNCH_COOPERATIVE(grid_sum, blocks, 32, 0, nullptr, counter, total, out);
    } else {
      PSPEC_LAUNCH(grid_sum, blocks, 32, 0, nullptr, counter, total, out);
    }
  });
}
DOOR const char* run_early_exit(int* out) {
  return guarded([&] { PSPEC_LAUNCH(early_exit, 1, 40, 0, nullptr, out); });
}
