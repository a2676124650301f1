// Producer and consumer of a ring in two threads, for the thread sanitizer: ring_threads CAPACITY [broken]. With
// "broken" the consumer reads a record before it is published, which the sanitizer must see.
#include <cstdlib>
#include <vector>

#include "../../csrc/common/ring_fake.h"

int main(int count, char** arguments) {
  using namespace pspec;
  constexpr int64_t B = 3, P = 5, kRounds = 3000;
  const int64_t capacity = std::atoi(arguments[1]);
  const bool broken = count > 2;
  std::vector<int32_t> words(ring_words(B, P, capacity)), control(8);
  const Ring ring = {words.data(), control.data(), capacity, B, P};
  std::thread producer([&] { fake_rounds(ring, kRounds); });
  int wrong = 0;
  for (uint32_t round = 0; round < kRounds; ++round) {
    if (broken) wrong += ring_record(ring, round)[0] == -1;
    while (static_cast<uint32_t>(load_acquire(words.data() + kHeadWord)) == round) std::this_thread::yield();
    const int32_t* record = ring_record(ring, round);
    const int32_t* emitted = record + kRecordHead + kWordsPerSlot * B;
    for (int64_t i = 0; i < B * P; ++i) wrong += emitted[i] != -1 && emitted[i] != fake_token(round, i / P, i % P);
    store_release(words.data() + kTailWord, static_cast<int32_t>(round + 1));
    store_release(words.data() + kCancelWord + 1, round % 3 == 0);
  }
  producer.join();
  return wrong != 0;
}
