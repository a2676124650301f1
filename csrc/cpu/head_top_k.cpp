// head_top_k: the C best tokens of each row without writing the logits; tiles of the vocabulary, then a merge.
#include <algorithm>

#include "convert.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

constexpr int kMaxC = 16;
constexpr float kLowest = -__builtin_huge_valf();

// The C largest values seen so far, best first; ids are offered in ascending order, so `>` keeps the lowest on ties.
struct TopC {
  float value[kMaxC];
  int32_t id[kMaxC];

  void clear() {
    for (int i = 0; i < kMaxC; ++i) value[i] = kLowest, id[i] = -1;
  }

  void offer(float candidate, int32_t candidate_id, int64_t C) {
    if (!(candidate > value[C - 1])) return;
    int64_t i = C - 1;
    for (; i > 0 && candidate > value[i - 1]; --i) value[i] = value[i - 1], id[i] = id[i - 1];
    value[i] = candidate;
    id[i] = candidate_id;
  }
};

struct TileStats {
  float max, sum;
};

// logits -> values: divided by the row's temperature, with the noise of each token added. Temperature 0: unchanged.
void perturb(const HeadTopKParams& p, int64_t r, int64_t first, int64_t width, float* values) {
  const float temperature = p.temperature == nullptr ? 0.0f : p.temperature[r];
  if (temperature == 0.0f) return;
  const float* noise = p.noise + p.noise_row[r] * p.V;
  for (int64_t i = 0; i < width; ++i) {
    const int64_t id = p.id_map == nullptr ? first + i : p.id_map[first + i];
    values[i] = values[i] / temperature + noise[id];
  }
}

void search_tile(const HeadTopKParams& p, int64_t r, int64_t first, int64_t width, float* values, TopC& top,
                 TileStats& stats) {
  perturb(p, r, first, width, values);
  stats.max = kernels().max(values, width);
  if (p.out_scores != nullptr) stats.sum = kernels().sum_exp(values, width, stats.max);
  if (!(stats.max > top.value[p.C - 1])) return;
  for (int64_t i = 0; i < width; ++i) {
    top.offer(values[i], p.id_map == nullptr ? static_cast<int32_t>(first + i) : p.id_map[first + i], p.C);
  }
}

// log of the sum of exp over all tiles, in tile order.
float log_sum_exp(const TileStats* stats, int64_t tiles, int64_t stride) {
  float max = kLowest;
  for (int64_t t = 0; t < tiles; ++t) max = stats[t * stride].max > max ? stats[t * stride].max : max;
  float sum = 0;
  for (int64_t t = 0; t < tiles; ++t) sum += stats[t * stride].sum * __builtin_expf(stats[t * stride].max - max);
  return max + __builtin_logf(sum);
}

}  // namespace

void head_top_k(const HeadTopKParams& p) {
  const int64_t tiles = (p.D + kHeadTile - 1) / kHeadTile;
  const int threads = num_threads();
  const float* x = pack_activations(p.x, p.x_dtype, p.w_dtype, p.R, p.M);
  auto* stats = reinterpret_cast<TileStats*>(scratch(ScratchSlot::kPartials, tiles * p.R * 2));  // [tiles, R]
  constexpr int64_t kTopFloats = sizeof(TopC) / sizeof(float);
  auto* tops = reinterpret_cast<TopC*>(scratch(ScratchSlot::kWork, threads * p.R * kTopFloats));  // [threads, R]
  for (int64_t i = 0; i < threads * p.R; ++i) tops[i].clear();

  parallel_for(tiles, 1, [&](int64_t begin, int64_t end, int thread) {
    float* logits = scratch(ScratchSlot::kOutputs, p.R * kHeadTile);
    Bytes rows;
    WeightStream share, *stream = nullptr;
    if (follows_stream(p.x_dtype, p.w_dtype)) {
      auto row = [&p](int64_t tile) { return at(p.w, p.w_dtype, std::min(tile * kHeadTile, p.D) * p.M); };
      rows = {static_cast<const char*>(row(begin)), static_cast<const char*>(row(end))};
      share = stream_of(&rows, &rows + 1);
      stream = &share;
    }
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kHeadTile, width = p.D - first < kHeadTile ? p.D - first : kHeadTile;
      kernels().dot(x, p.x_dtype, p.R, weight_rows(p.w, p.w_dtype, first, p.M), p.w_dtype, width, p.M,
                    stream, logits, kHeadTile);
      for (int64_t r = 0; r < p.R; ++r) {
        search_tile(p, r, first, width, logits + r * kHeadTile, tops[thread * p.R + r], stats[tile * p.R + r]);
      }
    }
  });

  for (int64_t r = 0; r < p.R; ++r) {
    TopC& best = tops[r];  // the other threads hold higher ids, in thread order
    for (int thread = 1; thread < threads; ++thread) {
      const TopC& other = tops[thread * p.R + r];
      for (int64_t i = 0; i < p.C; ++i) best.offer(other.value[i], other.id[i], p.C);
    }
    const float norm = p.out_scores == nullptr ? 0.0f : log_sum_exp(stats + r, tiles, p.R);
    for (int64_t i = 0; i < p.C; ++i) {
      p.out_ids[r * p.C + i] = best.id[i];
      if (p.out_scores != nullptr) p.out_scores[r * p.C + i] = best.value[i] - norm;
    }
  }
}

}  // namespace pspec::cpu
