// read_sum: every thread adds up its part of a buffer; the adding costs nothing next to the reading.
#include "read_sum.h"

#include <atomic>
#include <chrono>
#include <cstring>

#include "thread_pool.h"

namespace pspec::cpu {
namespace {

constexpr int64_t kLine = 64;  // bytes
constexpr int kStreams = 4;    // places a thread reads at in turn: more than one keeps more prefetches under way

template <int kWidth>
struct Words {
  typedef uint64_t Vector __attribute__((vector_size(kWidth)));
};

// Inlined into functions of several instruction sets. kWidth: bytes of a vector register.
template <int kWidth>
__attribute__((always_inline)) inline uint64_t sum_lines_by(const char* data, int64_t lines) {
  using Vector = typename Words<kWidth>::Vector;
  Vector total[kStreams] = {};
  const auto add = [&total](int stream, const char* line) __attribute__((always_inline)) {
    for (int64_t i = 0; i < kLine; i += kWidth) {
      Vector part;
      std::memcpy(&part, line + i, kWidth);
      total[stream] += part;
    }
  };
  const int64_t each = lines / kStreams;
  for (int64_t i = 0; i < each; ++i) {
    for (int s = 0; s < kStreams; ++s) add(s, data + (s * each + i) * kLine);
  }
  for (int64_t i = each * kStreams; i < lines; ++i) add(0, data + i * kLine);
  const Vector all = total[0] + total[1] + total[2] + total[3];
  uint64_t sum = 0;
  for (int i = 0; i < kWidth / 8; ++i) sum += all[i];
  return sum;
}

uint64_t sum_lines_baseline(const char* data, int64_t lines) { return sum_lines_by<16>(data, lines); }

#if defined(PSPEC_X86)
__attribute__((target("avx512f"))) uint64_t sum_lines_avx512(const char* data, int64_t lines) {
  return sum_lines_by<64>(data, lines);
}
#endif

// Not through isa/: it has no numerics, so PSPEC_CPU_ISA, which is about these, must not change the yardstick.
uint64_t sum_lines(const char* data, int64_t lines) {
#if defined(PSPEC_X86)
  static const bool has_avx512 = __builtin_cpu_supports("avx512f");
  if (has_avx512) return sum_lines_avx512(data, lines);
#endif
  return sum_lines_baseline(data, lines);
}

}  // namespace

ReadSum read_sum(const void* data, int64_t bytes) {
  constexpr int64_t kGrain = 64;  // lines: a page
  std::atomic<uint64_t> sum{0};
  const auto start = std::chrono::steady_clock::now();
  parallel_for(bytes / kLine, kGrain, [&](int64_t begin, int64_t end, int) {
    sum += sum_lines(static_cast<const char*>(data) + begin * kLine, end - begin);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {sum.load(), seconds.count()};
}

}  // namespace pspec::cpu
