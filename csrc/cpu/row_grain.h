// How many rows of a cheap kernel one thread takes at least.
#pragma once

#include <cstdint>

namespace pspec::cpu {

// A fork and join costs about a microsecond, as much as passing over this many elements; a call with fewer stays
// on the calling thread.
constexpr int64_t kTaskElements = 4096;

// For parallel_for over rows of `width` elements.
inline int64_t row_grain(int64_t width) { return (kTaskElements + width - 1) / width; }

}  // namespace pspec::cpu
