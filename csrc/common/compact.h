// Compaction plan: which cache rows move so that the accepted path lies contiguous.
#pragma once

#include "hd.h"

namespace pspec {

struct RowMove {
  int32_t from, to;
};

// Move number i (1 <= i < count) of a slot whose length after acceptance is `length`. The root already lies at its
// place, base. Node indices grow along a path, so path[i] >= i: done in ascending order, in place, no move
// overwrites a row that a later one still reads.
PSPEC_HD RowMove row_move(const int32_t* path, int32_t count, int32_t length, int i) {
  const int32_t base = length - count - 1;
  return {base + path[i], base + i};
}

}  // namespace pspec
