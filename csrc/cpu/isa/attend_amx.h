// Weighted sums of value rows on the tile unit, for the keys that lie far enough behind a row.
//
// A plain decode finds all of a row's keys in place, a tree pass the newest ones scattered over its scratch rows. So that
// both do the same, a block of kTileDepth keys is summed here only if it ends kMaxTreeRows keys before the row's own:
// such keys are committed in either case. The weights are rounded to bf16.
#pragma once

#include "dot_amx.h"
#include "kernels.h"

namespace pspec::PSPEC_ISA {

#define PSPEC_DIRECT_VALUES

constexpr int kDirectBlock = kTileDepth;

// Value rows v[0 .. count) as tiles [count / 32, E / 16] of [16 pairs of keys][16 elements][2].
static void pack_values(const uint16_t* v, int64_t E, int count, uint16_t* tiles) {
  alignas(64) static const uint16_t kLow[32] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int key = 0; key < count; key += 2) {
    const uint16_t* first = v + key * E;
    uint16_t* tile = tiles + key / kTileDepth * kTileDepth * E + key % kTileDepth / 2 * kTileDepth;
    for (int64_t e = 0; e < E; e += 2 * kTileRows, tile += 2 * kTileSize) {
      const __mmask32 there = E - e >= 2 * kTileRows ? 0xffffffffu : 0xffffu;
      const __m512i a = _mm512_maskz_loadu_epi16(there, first + e);
      const __m512i b = _mm512_maskz_loadu_epi16(there, first + E + e);
      _mm512_storeu_si512(tile, _mm512_permutex2var_epi16(a, low, b));
      if (there == 0xffffffffu) _mm512_storeu_si512(tile + kTileSize, _mm512_permutex2var_epi16(a, high, b));
    }
  }
}

// acc[r][:] = sum over keys j < direct[r] of weights[r * stride + j] * v[j][:], for `rows` rows; direct[r] is a multiple
// of kDirectBlock, E one of 16.
static void add_direct(const uint16_t* v, int64_t E, int64_t E4, const int* direct, int rows, const float* weights,
                       int64_t stride, float* scratch, float* acc) {
  uint16_t* values = reinterpret_cast<uint16_t*>(scratch);
  uint16_t* left = values + kRun * E;  // [16, kRun] weights of a group of rows
  const int most = *std::max_element(direct, direct + rows);
  pack_values(v, E, most, values);
  const TileScope tiles(kTileRows);
  for (int first = 0; first < rows; first += kTileRows) {
    const int count = std::min(rows - first, kTileRows);
    int end = 0;
    for (int r = 0; r < kTileRows; ++r) {
      const int keys = r < count ? direct[first + r] : 0;
      end = std::max(end, keys);
      uint16_t* row = left + r * kRun;
      for (int j = 0; j < keys; j += kLanes) store(row + j, load(weights + (first + r) * stride + j));
      memset(row + keys, 0, (most - keys) * sizeof(uint16_t));
    }
    finish_stores();
    alignas(64) TileSums sums[2];
    for (int64_t e = 0; e < E; e += 2 * kTileRows) {
      const bool two = E - e > kTileRows;
      _tile_zero(0);
      _tile_zero(1);
      for (int j = 0; j < end; j += kTileDepth) {
        const uint16_t* value = values + j * E + e * kTileDepth;
        _tile_loadd(6, left + j, kRun * sizeof(uint16_t));
        _tile_loadd(4, value, kTileRowBytes);
        _tile_dpbf16ps(0, 6, 4);
        if (!two) continue;
        _tile_loadd(7, value + kTileSize, kTileRowBytes);
        _tile_dpbf16ps(1, 6, 7);
      }
      _tile_stored(0, sums[0], kTileRowBytes);
      _tile_stored(1, sums[1], kTileRowBytes);
      for (int r = 0; r < count; ++r) {
        store(acc + (first + r) * E4 + e, load(sums[0][r]));
        if (two) store(acc + (first + r) * E4 + e + kTileRows, load(sums[1][r]));
      }
    }
  }
}

}  // namespace pspec::PSPEC_ISA
