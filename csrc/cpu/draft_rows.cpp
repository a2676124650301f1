// draft_rows: ids, positions, cache rows and ancestor words of one draft's rows.
#include <algorithm>

#include "launch.h"

namespace pspec::cpu {
namespace {

uint64_t low_bits(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

void draft_slot(const DraftRowsParams& p, int64_t b) {
  const int64_t count = p.count[b], anchor = p.length[b] - 1 + p.shift, first = anchor - count + 1;
  const uint64_t real = first >= 0 ? low_bits(count) : 0;
  int32_t* ids = p.ids + b * p.N;
  int32_t* positions = p.positions + b * p.N;
  int64_t* words = p.words + b * p.N;
  int32_t* take = p.take + b * (p.N - p.P + 1);
  p.prefix[b] = static_cast<int32_t>(std::max<int64_t>(first, 0));
  take[0] = static_cast<int32_t>(std::max<int64_t>(count - 1, 0));
  for (int64_t n = 0; n < p.N; ++n) {
    const bool mask = n >= p.P;
    const int32_t token = mask ? p.mask_id : p.emitted[b * p.P + n];
    ids[n] = !mask && p.vocab > 0 && token >= p.vocab ? -1 : token;
    const int64_t position = mask ? anchor + 1 + n - p.P : first + n;
    positions[n] = static_cast<int32_t>(std::max<int64_t>(position, 0));
    const uint64_t own = mask ? low_bits(n + 1) & ~low_bits(p.P) : uint64_t{1} << n;
    words[n] = static_cast<int64_t>((real & low_bits(std::min(n + 1, p.P))) | own);
    p.source[b * p.N + n] = mask ? take[0] : static_cast<int32_t>(n);
    if (mask) take[1 + n - p.P] = static_cast<int32_t>(n);
  }
}

}  // namespace

void draft_rows(const DraftRowsParams& p) {
  for (int64_t b = 0; b < p.B; ++b) draft_slot(p, b);
}

}  // namespace pspec::cpu
