// select_tokens: filters and picks without sorting the vocabulary.
//
// A pass over a row tells how many values, and how much probability, lie within a few distances of its maximum. The
// narrowest of these that must hold every token the filters can keep is gathered; only that short list is ranked.
#include <algorithm>
#include <cmath>

#include "convert.h"
#include "launch.h"
#include "row_grain.h"

namespace pspec::cpu {
namespace {

constexpr float kLowest = -__builtin_huge_valf();
// Probabilities are summed as integers: their order then does not matter, so that what is kept depends on the ranks
// alone. exp(z - max) <= 1 takes 44 bits; the sum over 2^18 tokens fits.
constexpr double kUnit = 1ull << 44;

struct Candidate {
  float value;
  int32_t id;
  int64_t mass;  // kUnit * exp(value - max)
};

// Rank order.
bool before(const Candidate& a, const Candidate& b) { return a.value != b.value ? a.value > b.value : a.id < b.id; }

struct Candidates {
  Candidate* begin;
  int64_t count;

  Candidate* end() const { return begin + count; }
};

// The tokens with value >= least, in the calling thread's scratch; `expected`: not fewer than there are.
Candidates gather(const float* values, int64_t V, float max, float least, int64_t expected) {
  int32_t* ids = reinterpret_cast<int32_t*>(scratch(ScratchSlot::kPartials, 2 * expected + kRowAlign));
  float* exps = reinterpret_cast<float*>(ids) + expected;
  constexpr int64_t kFloats = sizeof(Candidate) / sizeof(float);
  auto* list = reinterpret_cast<Candidate*>(scratch(ScratchSlot::kWork, expected * kFloats));
  const int64_t count = kernels().gather(values, V, least, ids);
  for (int64_t i = 0; i < count; ++i) exps[i] = values[ids[i]];
  kernels().exp(exps, count, max);
  for (int64_t i = 0; i < count; ++i) {
    list[i] = {values[ids[i]], ids[i], static_cast<int64_t>(exps[i] * kUnit)};
  }
  return {list, count};
}

// The tokens within the narrowest depth for which `enough` holds, or all.
template <typename Enough>
Candidates gather_enough(const float* values, int64_t V, float max, const Spread& spread, Enough enough) {
  for (int d = 0; d < kDepths; ++d) {
    if (enough(d)) return gather(values, V, max, max - kDepth[d], spread.count[d]);
  }
  return gather(values, V, max, kLowest, V);
}

// Drops what ranks behind the k-th, but not its equals.
void keep_top_k(Candidates& list, int64_t k) {
  if (k >= list.count) return;
  std::nth_element(list.begin, list.begin + (k - 1), list.end(), before);
  const float least = list.begin[k - 1].value;
  auto* end = std::partition(list.begin + k, list.end(), [&](const Candidate& c) { return c.value >= least; });
  list.count = end - list.begin;
}

int64_t mass_of(const Candidate* begin, const Candidate* end) {
  int64_t sum = 0;
  for (; begin != end; ++begin) sum += begin->mass;
  return sum;
}

// Keeps the tokens whose predecessors' mass is < limit, and the first. Halves the part of the list in which the mass
// crosses the limit: linear in its length, no full sort.
void keep_mass(Candidates& list, double limit) {
  constexpr int64_t kSortable = 16;
  Candidate *low = list.begin, *high = list.end();  // all before `low` are kept, none from `high` on
  int64_t mass = 0;                                 // before `low`
  while (high - low > kSortable) {
    Candidate* middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, before);
    const int64_t upper = mass_of(low, middle);
    if (static_cast<double>(mass + upper) < limit) {
      mass += upper;
      low = middle;
    } else {
      high = middle;
    }
  }
  std::sort(low, high, before);
  for (; low < high && (low == list.begin || static_cast<double>(mass) < limit); ++low) mass += low->mass;
  list.count = low - list.begin;
}

// One row's filters; `active` is false if they keep everything.
struct Filter {
  int64_t top_k;  // V: off
  double top_p;   // >= 1: off
  float min_p;
  bool active;
};

Filter filter_of(const SelectTokensParams& p, int64_t r) {
  const int64_t k = p.top_k[r] > 0 && p.top_k[r] < p.V ? p.top_k[r] : p.V;
  return {k, p.top_p[r], p.min_p[r], k < p.V || p.top_p[r] < 1 || p.min_p[r] > 0};
}

Candidates filtered(const float* z, int64_t V, float max, const Filter& filter) {
  Spread spread;
  kernels().spread(z, V, max, &spread);
  // The depths' masses are fp32 sums, hence the margin. min_p > exp(-depth) keeps nothing beyond the depth.
  constexpr double kMargin = 1 + 1e-4;
  const bool by_count = filter.top_k < V;
  Candidates list = gather_enough(z, V, max, spread, [&](int d) {
    if (by_count) return spread.count[d] >= filter.top_k;
    return spread.mass[d] > filter.top_p * spread.total * kMargin || filter.min_p > std::exp(-kDepth[d]) * kMargin;
  });
  double total = spread.total * kUnit;
  if (by_count) {
    keep_top_k(list, filter.top_k);
    total = static_cast<double>(mass_of(list.begin, list.end()));
  }
  if (filter.top_p < 1) keep_mass(list, filter.top_p * total);
  return list;
}

// The kept token with the largest z + noise, the lowest id on ties; -1 if all z are NaN or -inf.
int32_t draw_filtered(const float* z, int64_t V, float max, const Filter& filter, const float* noise) {
  const Candidates list = filtered(z, V, max, filter);
  int32_t best = -1;
  float most = kLowest;
  for (const Candidate* c = list.begin; c != list.end(); ++c) {
    if (static_cast<double>(c->mass) < filter.min_p * kUnit) continue;
    const float value = z[c->id] + noise[c->id];
    if (value > most || (value == most && c->id < best)) best = c->id, most = value;
  }
  return best;
}

int32_t select_row(const SelectTokensParams& p, int64_t r) {
  const float* logits = p.logits + r * p.V;
  const float temperature = p.temperature[r];
  if (!(temperature > 0)) return static_cast<int32_t>(kernels().argmax(logits, p.V));
  float* z = scratch(ScratchSlot::kOutputs, p.V);
  kernels().divide(logits, p.V, temperature, z);
  const float* noise = p.noise + p.noise_row[r] * p.V;
  const Filter filter = filter_of(p, r);
  if (filter.active) return draw_filtered(z, p.V, kernels().max(z, p.V), filter, noise);
  kernels().add(z, noise, p.V, z);
  return static_cast<int32_t>(kernels().argmax(z, p.V));
}

// Log-probabilities of the raw logits: of the chosen token, and of the most likely ones.
void write_logprobs(const SelectTokensParams& p, int64_t r, int32_t chosen) {
  const float* logits = p.logits + r * p.V;
  const float max = kernels().max(logits, p.V);
  Spread spread;
  kernels().spread(logits, p.V, max, &spread);
  const double log_total = std::log(spread.total);
  auto logprob = [&](int32_t id) {
    return id < 0 ? kLowest : static_cast<float>(static_cast<double>(logits[id]) - max - log_total);
  };
  if (p.out_logprob != nullptr) p.out_logprob[r] = logprob(chosen);
  if (p.top == 0) return;

  const Candidates list =
      gather_enough(logits, p.V, max, spread, [&](int d) { return spread.count[d] >= p.top; });
  const int64_t found = std::min(list.count, p.top);  // fewer where logits are NaN
  std::partial_sort(list.begin, list.begin + found, list.end(), before);
  for (int64_t i = 0; i < p.top; ++i) {
    const int32_t id = i < found && list.begin[i].value > kLowest ? list.begin[i].id : -1;
    p.out_top_ids[r * p.top + i] = id;
    p.out_top_logprobs[r * p.top + i] = logprob(id);
  }
}

}  // namespace

void select_tokens(const SelectTokensParams& p) {
  parallel_for(p.R, row_grain(p.V), [&p](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      p.out_ids[r] = select_row(p, r);
      if (p.out_logprob != nullptr || p.top > 0) write_logprobs(p, r, p.out_ids[r]);
    }
  });
}

}  // namespace pspec::cpu
