// Where the weights of an int8 matrix [O, I] lie, for kernels, embedding gather and address arithmetic alike.
//
// Tiles [O / 16][I / 64], each of 16 output rows x 64 inputs: [16 quads of inputs][16 rows][4] bytes q + 128, then the
// 16 rows' scales in fp32; w[o, i] = q * scale. O and I are padded by rows of scale 0 and by zeros. A tile is one
// register of the tile unit, and sixteen operands of a byte dot product whose lanes are output rows; a walk over the
// rows reads memory strictly in order.
#pragma once

#include <cstdint>

#include "../../params.h"

namespace pspec {

constexpr int kInt8Rows = 16;
constexpr int kInt8Depth = 64;  // inputs that share a scale
constexpr int kInt8Quads = kInt8Depth / 4;
constexpr int kInt8Zero = 128;  // the byte that stands for 0
constexpr int64_t kInt8Bytes = kInt8Rows * kInt8Depth;
constexpr int64_t kInt8TileBytes = kInt8Bytes + kInt8Rows * sizeof(float);

constexpr bool is_int8(DType dtype) { return dtype == DType::kInt8 || dtype == DType::kInt8A8; }

constexpr int64_t int8_groups(int64_t I) { return (I + kInt8Depth - 1) / kInt8Depth; }

// Bytes from row 0 to row `o`, a multiple of 16.
constexpr int64_t int8_offset(int64_t o, int64_t I) { return o / kInt8Rows * int8_groups(I) * kInt8TileBytes; }

}  // namespace pspec
