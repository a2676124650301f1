// Reads memory as fast as this machine can: the yardstick of kernels that stream weights.
#pragma once

#include <cstdint>

namespace pspec::cpu {

struct ReadSum {
  uint64_t sum;    // of the buffer's 64-bit words, modulo 2^64
  double seconds;  // from the first load to the last, on all threads of the pool
};

// Reads whole 64-byte lines; a rest behind the last one is left out.
ReadSum read_sum(const void* data, int64_t bytes);

}  // namespace pspec::cpu
