// Macros that let one header serve the CPU compiler and nvcc.
#pragma once

#include <cstdint>

// `static`: the CPU kernels compile these headers several times with different instruction sets; internal linkage
// keeps the linker from handing one set's copy to the code of another.
#if defined(__CUDACC__)
#define PSPEC_HD static __host__ __device__ __forceinline__
#else
#define PSPEC_HD static inline
#endif
