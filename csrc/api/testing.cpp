// Bindings that exist for the tests of csrc/common: single values that no kernel exposes.
#include <pybind11/stl.h>

#include <array>

#include "../common/noise.h"
#include "../common/ring_fake.h"
#include "api.h"

namespace pspec::api {
namespace {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const Philox4 draw = philox4x32_10({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {draw.lane[0], draw.lane[1], draw.lane[2], draw.lane[3]};
}

float gumbel_of_bits(uint32_t bits) { return gumbel_from_bits(bits); }

void ring_fake_rounds(Address words, Address control, int64_t capacity, int64_t B, int64_t P, int64_t rounds) {
  fake_rounds({pointer<int32_t>(words), pointer<int32_t>(control), capacity, B, P}, rounds);
}

}  // namespace

void bind_testing(pybind11::module_& m) {
  m.def("philox", philox);
  m.def("gumbel_of_bits", gumbel_of_bits);
  m.def("fake_token", fake_token);
  m.def("ring_fake_rounds", ring_fake_rounds, ReleaseGil());
}

}  // namespace pspec::api
