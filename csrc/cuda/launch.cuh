// How a kernel is launched and declares its dynamic shared memory, with nvcc and under the emulation.
//
// PSPEC_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...); PSPEC_LAUNCH_COOPERATIVE alike, for kernels
// whose blocks wait for each other: all of them run at once, or the launch fails. A template's name in parentheses.
#pragma once

#include <stdexcept>
#include <string>

#if defined(PSPEC_EMULATE)

#define PSPEC_DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(::pspec::emulation::dynamic_shared())
#define PSPEC_LAUNCH_AS(cooperative, kernel, grid, block, shared_bytes, stream, ...) \
  (static_cast<void>(stream),                                                        \
   ::pspec::emulation::launch(grid, block, shared_bytes, cooperative, [&] { (kernel)(__VA_ARGS__); }))

#else

#include <cuda_runtime.h>

// One name per file for the one region of dynamic shared memory that a block has.
#define PSPEC_DYNAMIC_SHARED(type, name)                   \
  extern __shared__ __align__(128) unsigned char name##_bytes[]; \
  type* const name = reinterpret_cast<type*>(name##_bytes)
#define PSPEC_LAUNCH_AS(cooperative, kernel, grid, block, shared_bytes, stream, ...) \
  ::pspec::cuda::launch(cooperative, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

namespace pspec::cuda {

inline void throw_on(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

template <typename... Params, typename... Args>
void launch(bool cooperative, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, const Args&... args) {
  constexpr size_t kDefaultLimit = 48 << 10;  // more must be asked for
  if (shared_bytes > kDefaultLimit) {
    throw_on(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes)),
             "shared memory of a kernel");
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cooperative ? 1 : 0;
  throw_on(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), "launch");
}

}  // namespace pspec::cuda

#endif

#define PSPEC_LAUNCH(...) PSPEC_LAUNCH_AS(false, __VA_ARGS__)
#define PSPEC_LAUNCH_COOPERATIVE(...) PSPEC_LAUNCH_AS(true, __VA_ARGS__)
