// A row of an embedding table, in the dtype of the activations.
#pragma once

#include <algorithm>
#include <cstring>

#include "convert.h"

namespace pspec::cpu {

// Row `id` of an int8 table.
inline void unpack_row(const void* table, int64_t id, int64_t M, void* out, DType dtype) {
  const int64_t row = id % kInt8Rows;
  const auto* tile = static_cast<const uint8_t*>(table) + int8_offset(id - row, M);
  for (int64_t i = 0; i < M; i += kInt8Depth, tile += kInt8TileBytes) {
    const float scale = reinterpret_cast<const float*>(tile + kInt8Bytes)[row];
    float values[kInt8Depth];
    for (int k = 0; k < kInt8Depth; ++k) {
      values[k] = static_cast<float>(tile[(k / 4 * kInt8Rows + row) * 4 + k % 4] - kInt8Zero) * scale;
    }
    from_float(values, std::min<int64_t>(M - i, kInt8Depth), dtype, at(out, dtype, i));
  }
}

// out = row `id` of table [V, M]; ids below 0 are padding and read row 0.
inline void table_row(const void* table, DType table_dtype, int64_t V, int64_t M, int32_t id, void* out, DType dtype) {
  const int64_t row = std::clamp<int64_t>(id, 0, V - 1);
  if (is_int8(table_dtype)) return unpack_row(table, row, M, out, dtype);
  std::memcpy(out, at(table, dtype, row * M), M * size_of(dtype));
}

}  // namespace pspec::cpu
