// The K loop of a skinny GEMM: a block streams rows of a weight past up to 64 tokens, warps share the columns.
//
// Warp w adds up the 32-column steps w, w + 8, w + 16, .. of a row in ascending order, and the eight warps' sums are
// added as a pairwise tree: one order for every weight, number of tokens and tile, so an output has the same bits
// whoever comes along. Weights stand on the M side of the MMA, tokens on its N side.
//
// A lane copies exactly the 16-byte pieces that it will read itself: eight columns of its rows, which are eight of the
// 32 that two MMAs take (the order of columns within an MMA is ours to choose, as weights and tokens agree on it).
// Hence the ring needs no barrier, only the lane's own wait, and reads of shared memory have no bank conflicts. A block
// takes one item (tile of the weight, tile of tokens) after another, and its ring runs on over their ends.
#pragma once

#include "rms.cuh"

namespace pspec::cuda {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kStep = 32;       // columns of a warp and stage
constexpr int kMaxStages = 10;  // what `copy_wait` knows, and 2
constexpr int kPiece = 512;     // bytes: 16 of every lane

// kM: tiles of 16 weight rows of a block, kN: tiles of 8 tokens, kNorm: the tokens are normed on their way.
template <int kM, int kN, bool kNorm>
struct StreamSize {
  static constexpr int kRows = 16 * kM, kTokens = 8 * kN;
  static constexpr int kPieces = 2 * kM + kN + (kNorm ? 1 : 0);
  static constexpr int kStageBytes = kPieces * kPiece * kWarps;
  static constexpr int kPitch = kRows + 4;  // floats between tokens of the exchange: no bank conflicts
  static constexpr int kSums = kWarps * 8 * kPitch;
  static constexpr int kFixedBytes = 2 * kSums * static_cast<int>(sizeof(float)) + 8 * kTokens;  // and the scales
  // How deep the ring gets in so much shared memory, 0 if too shallow to work.
  static constexpr __host__ __device__ int stages(int bytes) {
    const int stages = (bytes - kFixedBytes) / kStageBytes;
    return stages > kMaxStages ? kMaxStages : stages < 2 ? 0 : stages;
  }
  static constexpr __host__ __device__ int bytes(int stages) { return kFixedBytes + stages * kStageBytes; }
};

// Rows of a weight that a block's item takes: two runs of 8 * kM rows, whose sums meet in one thread.
struct TileRows {
  int64_t first, second;  // first row of either run
  int left, second_left;  // how many rows from there on exist
};

// How the rows of a weight are cut into tiles.
struct RowMap {
  int rows;      // of the outputs: those of the weight, or half of them if two belong together
  int distance;  // between the two that do: 0 plain; a whole half of the weight; or within groups of
  int group;     // so many pairs (rotary embedding: half a head), 0 if there is one group
  __device__ __forceinline__ TileRows tile(int index, int half) const {
    if (distance == 0) {
      const int first = index * 2 * half;
      return {first, first + half, rows - first, rows - first - half};
    }
    const int pair = index * half;
    const int first = group == 0 ? pair : pair / group * 2 * group + pair % group;
    return {first, first + distance, rows - pair, rows - pair};
  }
  __host__ __device__ __forceinline__ int tiles(int half) const {
    const int of_tile = distance == 0 ? 2 * half : half;
    return (rows + of_tile - 1) / of_tile;
  }
};

// kM for a weight: the fewest rows that a block of the GPU takes one after another; of equals the largest tile, as the
// tokens are read once per tile. It changes no bits. Of `tiles`, bit m stands for kM = m; a group of the map must be a
// multiple of 8 * kM.
inline __host__ __device__ int rows_per_tile(const RowMap& map, int blocks, unsigned tiles) {
  int best = 1, least = 1 << 30;
  for (int m = 1; tiles >> m != 0; ++m) {
    if (!(tiles >> m & 1) || map.group % (8 * m) != 0) continue;
    const int rows = (map.tiles(8 * m) + blocks - 1) / blocks * m;
    if (rows <= least) least = rows, best = m;
  }
  return best;
}

struct Stream {
  const Bf16* w;     // [.., I]
  const Bf16* x;     // [R, I]
  const Bf16* norm;  // [I], kNorm
  int R, I, stages;
  RowMap map;
};

// Where the ring's next copies come from.
template <int kM, int kN>
struct Cursor {
  static constexpr int kHalf = 8 * kM;
  const Stream& s;
  int items, item, step, steps, row_tiles, slot;
  const Bf16 *first, *second, *tokens;
  int first_left, second_left, tokens_left;

  __device__ __forceinline__ Cursor(const Stream& stream, int items, int steps, int row_tiles)
      : s(stream), items(items), item(blockIdx.x), step(0), steps(steps), row_tiles(row_tiles), slot(0) {
    find();
  }
  __device__ __forceinline__ void find() {
    if (item >= items) return;
    const int lane = threadIdx.x % 32, row = lane / 4;
    const TileRows rows = s.map.tile(item / row_tiles, kHalf);
    const int column = threadIdx.x / 32 * kStep + lane % 4 * 8;
    first = s.w + (rows.first + row) * s.I + column;
    second = s.w + (rows.second + row) * s.I + column;
    first_left = rows.left - row;
    second_left = rows.second_left - row;
    const int token = item % row_tiles * 8 * kN + row;
    tokens = s.x + static_cast<int64_t>(token) * s.I + column;
    tokens_left = s.R - token;
  }
  __device__ __forceinline__ void next() {
    slot = slot + 1 == s.stages ? 0 : slot + 1;
    if (++step == steps) {
      step = 0;
      item += gridDim.x;
      find();
    }
  }
};

template <int kM, int kN, bool kNorm>
struct Ring {
  using Size = StreamSize<kM, kN, kNorm>;
  unsigned char* own;  // this lane's first piece
  uint64_t policy;

  __device__ __forceinline__ explicit Ring(unsigned char* memory)
      : own(memory + threadIdx.x / 32 * Size::kPieces * kPiece + threadIdx.x % 32 * 16), policy(evict_first()) {}
  __device__ __forceinline__ unsigned char* piece(int slot, int index) const {
    return own + slot * Size::kStageBytes + index * kPiece;
  }
  __device__ __forceinline__ uint4 read(int slot, int index) const {
    return *reinterpret_cast<const uint4*>(piece(slot, index));
  }
  __device__ __forceinline__ void copy_weights(const Cursor<kM, kN>& at) const {
    if (at.item >= at.items) return;
    const int k = at.step * kWarps * kStep;
    const int column = k + threadIdx.x / 32 * kStep + threadIdx.x % 4 * 8;
    const bool inside = column < at.s.I;
#pragma unroll
    for (int q = 0; q < kM; ++q) {
      const bool here = inside && 8 * q < at.first_left, there = inside && 8 * q < at.second_left;
      const int64_t offset = static_cast<int64_t>(8 * q) * at.s.I + k;
      copy_16(piece(at.slot, q), here ? at.first + offset : at.s.w, here, policy);
      copy_16(piece(at.slot, kM + q), there ? at.second + offset : at.s.w, there, policy);
    }
    if (kNorm) copy_16(piece(at.slot, 2 * kM + kN), inside ? at.s.norm + column : at.s.norm, inside);
  }
  __device__ __forceinline__ void copy_tokens(const Cursor<kM, kN>& at) const {
    if (at.item >= at.items) return;
    const int k = at.step * kWarps * kStep;
    const bool inside = k + static_cast<int>(threadIdx.x / 32 * kStep + threadIdx.x % 4 * 8) < at.s.I;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const bool here = inside && 8 * n < at.tokens_left;
      copy_16(piece(at.slot, 2 * kM + n), here ? at.tokens + static_cast<int64_t>(8 * n) * at.s.I + k : at.s.x, here);
    }
  }
};

// The eight warps' sums of (token, row), as a pairwise tree.
__device__ __forceinline__ float add_warps(const float* at, int stride) {
  float sum[kWarps];
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum[w] = at[w * stride];
#pragma unroll
  for (int width = 1; width < kWarps; width *= 2) {
#pragma unroll
    for (int w = 0; w < kWarps; w += 2 * width) sum[w] = __fadd_rn(sum[w], sum[w + width]);
  }
  return sum[0];
}

// Runs all items of this block. `before_tokens()` comes between the first copies of weights, which wait for nothing,
// and those of x; kNorm: it returns the scales of all tokens in shared memory. `finish(rows, token, row, a, b)` gets
// the sums of either run for tokens and rows that exist (`row` within the run); `after(rows)` follows each item.
template <int kM, int kN, bool kNorm, typename Before, typename Finish, typename After>
__device__ __forceinline__ void stream_weights(const Stream& s, unsigned char* memory, Before before_tokens,
                                               Finish finish, After after) {
  using Size = StreamSize<kM, kN, kNorm>;
  constexpr int kHalf = 8 * kM;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  const int row_tiles = (s.R + Size::kTokens - 1) / Size::kTokens;
  const int items = s.map.tiles(kHalf) * row_tiles;
  const int steps = (s.I + kWarps * kStep - 1) / (kWarps * kStep);
  float* sums = reinterpret_cast<float*>(memory);
  const Ring<kM, kN, kNorm> ring(memory + Size::kFixedBytes);

  {
    Cursor<kM, kN> first(s, items, steps, row_tiles);
    for (int i = 0; i + 1 < s.stages; ++i, first.next()) ring.copy_weights(first);
    copy_commit();
  }
  const float* scales = before_tokens();
  Cursor<kM, kN> ahead(s, items, steps, row_tiles);
  for (int i = 0; i + 1 < s.stages; ++i, ahead.next()) {
    ring.copy_tokens(ahead);
    copy_commit();
  }

  int slot = 0, buffer = 0;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    float acc[kM][kN][4] = {};
    for (int step = 0; step < steps; ++step) {
      copy_wait(s.stages - 2);
      uint4 low[kM], high[kM];  // rows g and g + 8 of an MMA: one of either run
#pragma unroll
      for (int m = 0; m < kM; ++m) low[m] = ring.read(slot, m), high[m] = ring.read(slot, kM + m);
      uint4 norm;
      if (kNorm) norm = ring.read(slot, 2 * kM + kN);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        uint4 x = ring.read(slot, 2 * kM + n);
        if (kNorm) x = normed(x, scales[8 * n + group], norm);
#pragma unroll
        for (int m = 0; m < kM; ++m) mma_bf16(acc[m][n], low[m].x, high[m].x, low[m].y, high[m].y, x.x, x.y);
#pragma unroll
        for (int m = 0; m < kM; ++m) mma_bf16(acc[m][n], low[m].z, high[m].z, low[m].w, high[m].w, x.z, x.w);
      }
      ring.copy_weights(ahead);
      ring.copy_tokens(ahead);
      copy_commit();
      ahead.next();
      slot = slot + 1 == s.stages ? 0 : slot + 1;
    }

    const TileRows rows = s.map.tile(item / row_tiles, kHalf);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      float* const exchange = sums + buffer * Size::kSums;  // two take turns: one barrier for each eight tokens
      buffer ^= 1;
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        float* const at = exchange + (warp * 8 + 2 * quad) * Size::kPitch + 8 * m + group;
        at[0] = acc[m][n][0], at[Size::kPitch] = acc[m][n][1];
        at[kHalf] = acc[m][n][2], at[Size::kPitch + kHalf] = acc[m][n][3];
      }
      __syncthreads();
      const int first_token = item % row_tiles * Size::kTokens + 8 * n;
      for (int i = threadIdx.x; i < 8 * kHalf; i += kThreads) {
        const int token = i / kHalf, row = i % kHalf;
        if (first_token + token >= s.R || row >= rows.left) continue;
        const float* const at = exchange + token * Size::kPitch + row;
        finish(rows, first_token + token, row, add_warps(at, 8 * Size::kPitch),
               add_warps(at + kHalf, 8 * Size::kPitch));
      }
    }
    after(rows);
  }
}

}  // namespace pspec::cuda
