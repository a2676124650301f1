// Launches of the matrix kernels: programmatic dependent launch, and grids whose blocks are all resident at once.
#pragma once

#include "launch.cuh"

namespace pspec::cuda {

constexpr int kUsualShared = 166912;  // bytes that a block may ask for on sm_80; later data center GPUs have more

struct Gpu {
  int multiprocessors, shared_bytes, major;  // shared memory that a block may ask for; capability
};

#if defined(PSPEC_EMULATE)

inline Gpu current_gpu() { return {3, 232448, 9}; }
// Blocks side by side, as the GPU would run them.
#define PSPEC_LAUNCH_RESIDENT(kernel, grid, shared_bytes, pdl, stream, ...) \
  (static_cast<void>(pdl), PSPEC_LAUNCH_COOPERATIVE(kernel, grid, kThreads, shared_bytes, stream, __VA_ARGS__))

#else

inline Gpu current_gpu() {
  static thread_local int known = -1;
  static thread_local Gpu gpu = {};
  int device = 0;
  throw_on(cudaGetDevice(&device), "cudaGetDevice");
  if (device != known) {
    throw_on(cudaDeviceGetAttribute(&gpu.multiprocessors, cudaDevAttrMultiProcessorCount, device), "attributes");
    throw_on(cudaDeviceGetAttribute(&gpu.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "attributes");
    throw_on(cudaDeviceGetAttribute(&gpu.major, cudaDevAttrComputeCapabilityMajor, device), "attributes");
    known = device;
  }
  return gpu;
}

// An ordinary launch (a cooperative one may not stand in the body of a conditional graph node) of a block per
// multiprocessor at most, so all are resident. pdl: it may start while the kernel before it ends (sm_90 and later).
template <typename... Params, typename... Args>
void launch_resident(void (*kernel)(Params...), int grid, int threads, int shared_bytes, bool pdl,
                     cudaStream_t stream, const Args&... args) {
  throw_on(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared_bytes),
           "shared memory of a kernel");
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = pdl && current_gpu().major >= 9 ? 1 : 0;
  throw_on(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), "launch");
}
#define PSPEC_LAUNCH_RESIDENT(kernel, grid, shared_bytes, pdl, stream, ...) \
  ::pspec::cuda::launch_resident(kernel, grid, kThreads, shared_bytes, pdl, stream, __VA_ARGS__)

#endif

}  // namespace pspec::cuda
