// The rows of a parallel draft: last round's tokens, then masks behind the newest of them.
#pragma once

#include "../params.h"
#include "hd.h"

namespace pspec {

PSPEC_HD uint64_t low_bits(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

PSPEC_HD int32_t not_below_0(int64_t x) { return x > 0 ? static_cast<int32_t>(x) : 0; }

// Writes row n of slot b; with row 0 also what the slot has once: where its rows begin in the cache.
PSPEC_HD void draft_row(const DraftRowsParams& p, int64_t b, int64_t n) {
  const int64_t count = p.count[b], anchor = p.length[b] - 1 + p.shift, first = anchor - count + 1, at = b * p.N + n;
  const uint64_t real = first >= 0 ? low_bits(count) : 0;
  const int32_t anchor_row = not_below_0(count - 1);
  int32_t* take = p.take + b * (p.N - p.P + 1);
  if (n == 0) p.prefix[b] = not_below_0(first), take[0] = anchor_row;
  if (n >= p.P) {  // a mask
    p.ids[at] = p.mask_id;
    p.positions[at] = not_below_0(anchor + 1 + n - p.P);
    p.words[at] = static_cast<int64_t>((real & low_bits(p.P)) | (low_bits(n + 1) & ~low_bits(p.P)));
    p.source[at] = anchor_row;
    take[1 + n - p.P] = static_cast<int32_t>(n);
  } else {
    const int32_t token = p.emitted[b * p.P + n];
    p.ids[at] = p.vocab > 0 && token >= p.vocab ? -1 : token;
    p.positions[at] = not_below_0(first + n);
    p.words[at] = static_cast<int64_t>((real & low_bits(n + 1)) | uint64_t{1} << n);
    p.source[at] = static_cast<int32_t>(n);
  }
}

}  // namespace pspec
