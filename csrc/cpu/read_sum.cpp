// read_sum: every thread adds up its part of a buffer; the adding costs nothing next to the reading.
#include "read_sum.h"

#include <atomic>
#include <chrono>
#include <cstring>

#include "thread_pool.h"

namespace pspec::cpu {
namespace {

constexpr int64_t kLine = 64;
constexpr int kStreams = STREAMS;

typedef uint64_t Line __attribute__((vector_size(kLine)));

TARGET uint64_t sum_lines(const char* data, int64_t lines) {
  Line total[kStreams] = {};
  const int64_t each = lines / kStreams;
  for (int64_t i = 0; i < each; ++i) {
    for (int s = 0; s < kStreams; ++s) {
      Line line;
      std::memcpy(&line, data + (s * each + i) * kLine, kLine);
      total[s] += line;
    }
  }
  for (int64_t i = kStreams * each; i < lines; ++i) {
    Line line;
    std::memcpy(&line, data + i * kLine, kLine);
    total[0] += line;
  }
  uint64_t sum = 0;
  for (const Line& lanes : total) {
    for (int lane = 0; lane < 8; ++lane) sum += lanes[lane];
  }
  return sum;
}

}  // namespace

ReadSum read_sum(const void* data, int64_t bytes) {
  constexpr int64_t kGrain = 1024;  // lines
  std::atomic<uint64_t> sum{0};
  const auto start = std::chrono::steady_clock::now();
  parallel_for(bytes / kLine, kGrain, [&](int64_t begin, int64_t end, int) {
    sum += sum_lines(static_cast<const char*>(data) + begin * kLine, end - begin);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {sum.load(), seconds.count()};
}

}  // namespace pspec::cpu
