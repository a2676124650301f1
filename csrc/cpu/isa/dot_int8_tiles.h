// Int8 dot products on the tile unit (Intel AMX): up to 16 activation rows x 64 inputs x 16 weight rows at a time.
#pragma once

#include <algorithm>

#include "dot_amx.h"
#include "dot_int8_bytes.h"

namespace pspec::PSPEC_ISA {

constexpr int kMostInt8Rows = kTileRows;
constexpr int kFewRows = 4;  // up to here byte dot products are as fast

static int64_t int8_block(int64_t R, int64_t /*left*/) { return R <= kFewRows ? R : std::min<int64_t>(round_up(R, 4), kTileRows); }

using TileIntegers = int32_t[kTileRows][kTileRows];  // [activation row][weight row]

// Tile registers for more rows, whose number is that of a block: 0-1 and 5-6 sums, 3-4 activations, 2 and 7 weights.
struct StripScope {
  explicit StripScope(int64_t R) : tiles(R > kFewRows) {
    if (!tiles) return;
    TileScope::Config config;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = kTileRowBytes;
      config.rows[t] = t == 2 || t == 7 ? kTileRows : static_cast<uint8_t>(int8_block(R, R));
    }
    finish_stores();
    _tile_loadconfig(&config);
  }
  ~StripScope() {
    if (tiles) _tile_release();
  }

  const bool tiles;
  alignas(64) TileIntegers upper[2], lower[2];  // sums of the two digits, of even and odd groups
};

// Many rows take longer than one, so more has to be on its way from memory.
static inline void fetch_far(const uint8_t* tile) {
  constexpr int64_t kFar = 8 * kInt8TileBytes;
  fetch_next(tile);
  for (int64_t line = 0; line < kInt8TileBytes; line += 64) __builtin_prefetch(tile + kFar + line, 0, 2);
}

// total[r] += the scaled sums of one group; `scale` and `correction` are its first row's.
template <int Rows, bool kA8>
static inline void add_tile(const TileIntegers& upper, const TileIntegers& lower, const float* scale,
                            const int32_t* correction, const uint8_t* tile, Vec* total) {
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    VecInt sum, low;
    memcpy(&sum, upper[r], sizeof sum);
    if (!kA8) {
      memcpy(&low, lower[r], sizeof low);
      sum = (sum << 8) + low;
    }
    sum -= correction[r];
    add_scaled(&sum, tile, scale[r], &total[r]);
  }
}

// The intrinsics name registers by literal digits, hence a macro.
#define PSPEC_MULTIPLY_TILES(SUM_HIGH, SUM_LOW, WEIGHTS, turn)     \
  do {                                                             \
    _tile_loadd(WEIGHTS, tile, kTileRowBytes);                     \
    _tile_loadd(3, digits, kTileRowBytes);                         \
    _tile_zero(SUM_HIGH);                                          \
    _tile_dpbsud(SUM_HIGH, 3, WEIGHTS);                            \
    if (!kA8) {                                                    \
      _tile_loadd(4, digits + rows * kInt8Depth, kTileRowBytes);   \
      _tile_zero(SUM_LOW);                                         \
      _tile_dpbsud(SUM_LOW, 4, WEIGHTS);                           \
      _tile_stored(SUM_LOW, scope.lower[turn], kTileRowBytes);     \
    }                                                              \
    _tile_stored(SUM_HIGH, scope.upper[turn], kTileRowBytes);      \
  } while (false)

// dot_strip for the first `Rows` rows of a block. The sums of a group are added while the tile unit works on the next one.
template <int Rows, bool kA8>
static inline void dot_tiles(StripScope& scope, const Int8Rows& x, int64_t rows, const uint8_t* tile, int64_t groups,
                             bool fetch, Vec (*acc)[kInt8Vecs]) {
  const int8_t* digits = x.digits;
  Vec total[Rows] = {};
  for (int64_t g = 0; g <= groups; ++g, tile += kInt8TileBytes, digits += rows * kDigitBytes) {
    if (g < groups) {
      if (fetch) fetch_far(tile);
      if (g % 2 == 0) {
        PSPEC_MULTIPLY_TILES(0, 1, 2, 0);
      } else {
        PSPEC_MULTIPLY_TILES(5, 6, 7, 1);
      }
    }
    if (g == 0) continue;
    const int64_t done = g - 1, first = done * rows;
    add_tile<Rows, kA8>(scope.upper[done % 2], scope.lower[done % 2], x.scale + first, x.correction + first,
                        tile - kInt8TileBytes, total);
  }
  for (int r = 0; r < Rows; ++r) acc[r][0] = total[r];
}
#undef PSPEC_MULTIPLY_TILES

static inline void dot_strip(StripScope& scope, const Int8Rows& x, int64_t rows, int64_t real, bool a8,
                             const uint8_t* strip, int64_t groups, bool fetch, Vec (*acc)[kInt8Vecs]) {
  if (rows <= kFewRows) return dot_some_bytes<kFewRows>(x, rows, a8, strip, groups, fetch, acc);
  with_rows<4>((std::min(real, rows) + 3) / 4, [&](auto fours) {
    constexpr int kRows = 4 * decltype(fours)::value;
    a8 ? dot_tiles<kRows, true>(scope, x, rows, strip, groups, fetch, acc)
       : dot_tiles<kRows, false>(scope, x, rows, strip, groups, fetch, acc);
  });
}

}  // namespace pspec::PSPEC_ISA
