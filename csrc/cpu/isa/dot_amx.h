// Dot products in bf16 on the tile unit (Intel AMX): many activation rows for the price of one.
//
// A tile register holds 16 rows of 64 bytes. Weight rows are read as they lie; activations are packed once per call.
// The unit adds the products of 32 elements of I at a time to an fp32 sum, in an order of its own that is the same for
// every element, so a dot still depends on its own two rows alone. Denormals count as zero.
#pragma once

#define PSPEC_HALF_DOTS

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace pspec::PSPEC_ISA {

constexpr int kTileRows = 16;       // weight rows, or activation rows, of a tile
constexpr int kTileDepth = 32;      // elements of I of a tile
constexpr int kTileSize = 16 * 32;  // elements of a tile
constexpr int64_t kTileRowBytes = 64;

// The kernel grants a process the large register state on request, once for all its threads.
static bool tiles_granted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// GCC does not know that the tile intrinsics read memory.
static inline void finish_stores() { asm volatile("" ::: "memory"); }

// The tile registers in use: 6-7 weights, 4 activations with sums 0-1, 5 more activations with sums 2-3. The columns of
// all but the weights are activation rows. Released at the end so that the thread's state stays small.
struct TileScope {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };

  explicit TileScope(int columns) {
    Config config;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = static_cast<uint16_t>(t < 6 ? columns * sizeof(float) : kTileRowBytes);
      config.rows[t] = kTileRows;
    }
    finish_stores();
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
};

static int64_t tile_count(int64_t n, int64_t per_tile) { return (n + per_tile - 1) / per_tile; }

static int64_t packed_halves(int64_t R, int64_t I) { return round_up(R, kTileRows) * round_up(I, kTileDepth); }

// Rows x [R, I] as tiles [R / 16, I / 32], each of [16 pairs of elements][16 rows][2], zero padded. One row alone stays
// as it is: tiles of one column.
static void pack_half(const uint16_t* x, int64_t R, int64_t I, uint16_t* tiles) {
  if (R == 1) {
    memcpy(tiles, x, I * sizeof(uint16_t));
    memset(tiles + I, 0, (round_up(I, kTileDepth) - I) * sizeof(uint16_t));
    return;
  }
  for (int64_t first = 0; first < R; first += kTileRows) {
    for (int64_t i = 0; i < I; i += kTileDepth, tiles += kTileSize) {
      Vec pairs[kTileRows] = {};  // pairs[r]: 16 pairs of row r, moved as if they were floats
      for (int64_t r = 0; r < kTileRows && first + r < R; ++r) {
        const uint16_t* row = x + (first + r) * I + i;
        if (i + kTileDepth <= I) {
          memcpy(&pairs[r], row, sizeof(Vec));
        } else {
          memcpy(&pairs[r], row, (I - i) * sizeof(uint16_t));
        }
      }
      transpose(pairs);
      memcpy(tiles, pairs, sizeof pairs);
    }
  }
}

// A tile cut off by the end of the matrix: weight rows w[0 .. rows) from element i on, padded with zeros.
__attribute__((noinline)) static void stage_tile(const uint16_t* w, int64_t rows, int64_t i, int64_t I,
                                                 uint16_t* stage) {
  memset(stage, 0, kTileSize * sizeof(uint16_t));
  const int64_t width = I - i < kTileDepth ? I - i : kTileDepth;
  for (int64_t r = 0; r < rows && r < kTileRows; ++r) {
    memcpy(stage + r * kTileDepth, w + r * I + i, width * sizeof(uint16_t));
  }
  finish_stores();
}

// How far along I tiles of these weight rows can be loaded where they lie.
static int64_t whole_tiles(int64_t rows, int64_t I) { return rows < kTileRows ? 0 : I - I % kTileDepth; }

using TileSums = float[kTileRows][kTileRows];  // [weight row][activation row]

// 16 weight rows x up to 16 activation rows, in tiles of `columns`. The intrinsics name registers by literal digits.
static inline void dot_1x1(const uint16_t* w, int64_t O, int64_t I, const uint16_t* x, int columns, WeightStream* stream,
                           float* sums) {
  const int64_t x_stride = columns * static_cast<int64_t>(sizeof(float));
  const int64_t w_stride = I * static_cast<int64_t>(sizeof(uint16_t)), whole = whole_tiles(O, I);
  _tile_zero(0);
  int64_t i = 0;
  for (; i < whole; i += kTileDepth, x += kTileDepth * columns) {
    _tile_loadd(6, w + i, w_stride);
    if (stream != nullptr) use_step(*stream);
    _tile_loadd(4, x, x_stride);
    _tile_dpbf16ps(0, 6, 4);
  }
  alignas(64) uint16_t stage[kTileSize];
  for (; i < I; i += kTileDepth, x += kTileDepth * columns) {
    stage_tile(w, O, i, I, stage);
    _tile_loadd(6, stage, kTileRowBytes);
    _tile_loadd(4, x, x_stride);
    _tile_dpbf16ps(0, 6, 4);
  }
  _tile_stored(0, sums, x_stride);
}

// 32 weight rows x 2 * 16 activation rows: sums of the two weight tiles with x0, then with x1.
static void dot_2x2(const uint16_t* w, int64_t O, int64_t I, const uint16_t* x0, const uint16_t* x1, WeightStream* stream,
                    TileSums* sums) {
  const int64_t w_stride = I * static_cast<int64_t>(sizeof(uint16_t)), whole = whole_tiles(O - kTileRows, I);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  int64_t i = 0;
  for (; i < whole; i += kTileDepth, x0 += kTileSize, x1 += kTileSize) {
    _tile_loadd(6, w + i, w_stride);
    if (stream != nullptr) use_step(*stream);
    _tile_loadd(4, x0, kTileRowBytes);
    _tile_dpbf16ps(0, 6, 4);
    _tile_loadd(5, x1, kTileRowBytes);
    _tile_dpbf16ps(2, 6, 5);
    _tile_loadd(7, w + kTileRows * I + i, w_stride);
    if (stream != nullptr) use_step(*stream);
    _tile_dpbf16ps(1, 7, 4);
    _tile_dpbf16ps(3, 7, 5);
  }
  alignas(64) uint16_t low[kTileSize], high[kTileSize];
  for (; i < I; i += kTileDepth, x0 += kTileSize, x1 += kTileSize) {
    stage_tile(w, O, i, I, low);
    stage_tile(w + kTileRows * I, O - kTileRows, i, I, high);
    _tile_loadd(6, low, kTileRowBytes);
    _tile_loadd(7, high, kTileRowBytes);
    _tile_loadd(4, x0, kTileRowBytes);
    _tile_loadd(5, x1, kTileRowBytes);
    _tile_dpbf16ps(0, 6, 4);
    _tile_dpbf16ps(1, 7, 4);
    _tile_dpbf16ps(2, 6, 5);
    _tile_dpbf16ps(3, 7, 5);
  }
  _tile_stored(0, sums[0], kTileRowBytes);
  _tile_stored(1, sums[1], kTileRowBytes);
  _tile_stored(2, sums[2], kTileRowBytes);
  _tile_stored(3, sums[3], kTileRowBytes);
}

// out[r * out_stride + o] = sums[o][r] for up to 16 activation rows and 16 weight rows.
static void store_tile(const TileSums& sums, int64_t R, int64_t O, float* out, int64_t out_stride) {
  Vec rows[kTileRows];
  for (int o = 0; o < kTileRows; ++o) rows[o] = load(sums[o]);
  transpose(rows);
  const int64_t count = R < kTileRows ? R : kTileRows;
  for (int64_t r = 0; r < count; ++r) {
    if (O >= kTileRows) {
      store(out + r * out_stride, rows[r]);
    } else {
      store_partial(out + r * out_stride, rows[r], O);
    }
  }
}

// Sums on their way to the output: O weight rows in one or two tiles, for up to 16 activation rows, or 32 in two
// further tiles.
struct Finished {
  const TileSums* sums;
  int64_t R, O;
  float* out;
  int64_t out_stride;

  void store() const {
    for (int64_t r = 0; r < R && r < 2 * kTileRows; r += kTileRows) {
      for (int64_t o = 0; o < O; o += kTileRows) {
        store_tile(sums[r / kTileRows * 2 + o / kTileRows], R - r, O - o, out + r * out_stride + o, out_stride);
      }
    }
  }
};

// One activation row: the sums of a tile are 16 outputs side by side.
static void dot_row(const uint16_t* x, const uint16_t* w, int64_t O, int64_t I, WeightStream* stream,
                    float* out) {
  const TileScope tiles(1);
  int64_t o = 0;
  for (; o + kTileRows <= O; o += kTileRows) dot_1x1(w + o * I, kTileRows, I, x, 1, stream, out + o);
  if (o == O) return;
  float sums[kTileRows];
  dot_1x1(w + o * I, O - o, I, x, 1, stream, sums);
  memcpy(out + o, sums, (O - o) * sizeof(float));
}

// As Kernels::dot, of activations packed by pack_half.
static void dot_half(const uint16_t* x, int64_t R, const uint16_t* w, int64_t O, int64_t I, WeightStream* stream,
                     float* out, int64_t out_stride) {
  if (R == 1) return dot_row(x, w, O, I, stream, out);
  const TileScope tiles(kTileRows);
  const int64_t block = tile_count(I, kTileDepth) * kTileSize;  // packed elements of 16 activation rows
  // Tiles take long to arrive in memory: they are turned round one step late, while the next ones are summed.
  alignas(64) TileSums sums[2][4];
  Finished finished = {nullptr, 0, 0, nullptr, out_stride};
  int turn = 0;
  for (int64_t o = 0; o < O; o += 2 * kTileRows) {
    const int64_t width = O - o < 2 * kTileRows ? O - o : 2 * kTileRows;
    const uint16_t* rows = w + o * I;
    int64_t r = 0;
    for (; r + kTileRows < R; r += 2 * kTileRows, turn ^= 1) {
      const uint16_t* x0 = x + r / kTileRows * block;
      dot_2x2(rows, width, I, x0, x0 + block, r == 0 ? stream : nullptr, sums[turn]);
      finished.store();
      finished = {sums[turn], R - r, width, out + r * out_stride + o, out_stride};
    }
    if (r >= R) continue;
    for (int64_t half = 0; half < width; half += kTileRows, turn ^= 1) {
      dot_1x1(rows + half * I, width - half, I, x + r / kTileRows * block, kTileRows, r == 0 ? stream : nullptr,
              sums[turn][0][0]);
      finished.store();
      finished = {sums[turn], R - r, std::min<int64_t>(width - half, kTileRows), out + r * out_stride + o + half, out_stride};
    }
  }
  finished.store();
}

}  // namespace pspec::PSPEC_ISA
