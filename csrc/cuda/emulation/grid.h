// An emulated launch: blocks, warps, barriers, and the order in which threads take their turns.
//
// A thread runs until a barrier or a warp collective, so a missing one shows as a wrong result in some order; the
// shuffled order draws a new one for every turn, and pauses at atomics and fences too. A launch that cannot go on
// (a barrier that some threads never reach) throws instead of hanging.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "fiber.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// All static __shared__ variables of the module lie in one section, so that a block can be given its own copy.
extern "C" {
extern char __start_pspec_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_pspec_shared[] __attribute__((weak, visibility("hidden")));
}

namespace pspec::emulation {

constexpr int kWarp = 32;
constexpr int kMaxExchangeBytes = 128;
constexpr unsigned char kPoison = 0xcb;  // of memory that nobody has written yet
constexpr int kIdleTurns = 20000;        // turns of nothing but waiting in spin loops: a deadlock

enum class Order { kAscending, kDescending, kShuffled };

struct Block;

struct Thread {
  Fiber fiber;
  dim3 index;
  int linear;  // in its block
  Block* block;
  const std::function<bool()>* may_go_on = nullptr;  // set while it waits at a barrier or collective
  int warp() const { return linear / kWarp; }
  int lane() const { return linear % kWarp; }
};

// Lanes of one warp that meet under one mask; each leaves a value and reads all of them.
struct Collective {
  const char* name;
  uint32_t mask, arrived = 0, left = 0;
  unsigned char value[kWarp][kMaxExchangeBytes];
};

struct Barrier {
  int arrived = 0, total = 0, result = 0;  // total: sum of what the threads brought; result: that of the last round
  uint64_t round = 0;
};

struct Block {
  dim3 index;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::vector<std::unique_ptr<Collective>>> collectives;  // per warp, those not read by all lanes yet
  Barrier barrier[16];
  int alive = 0;
  std::vector<char> dynamic_shared, static_shared;  // static: while another block runs
};

struct Launch {
  dim3 grid, block;
  size_t shared_bytes;
  std::function<void()> body;
};

[[noreturn]] inline void fail(const std::string& text) { throw std::runtime_error("emulated launch: " + text); }

// What a kernel told the loop node of a graph.
struct Conditional {
  uint64_t handle = 0;
  unsigned value = 0;
  int calls = 0;
};

// The machine: which thread runs, and the settings of the tests. One launch at a time per process.
struct Machine {
  Order order = Order::kAscending;
  std::mt19937 random;
  Thread* thread = nullptr;
  Block* resident = nullptr;  // whose static shared memory is in place
  Launch* launch = nullptr;
  uint64_t launches = 0;
  uint64_t progress = 0;  // grows with all that a thread does but spinning
  uint64_t spins = 0;
  Conditional conditional;
};

inline Machine& machine() {
  static Machine all;
  return all;
}
inline Thread& self() { return *machine().thread; }

inline void set_order(Order order, unsigned seed) {
  machine().order = order;
  machine().random.seed(seed);
}

inline void pause() { self().fiber.pause(); }

// In a loop that waits for another thread's store.
inline void spin() {
  ++machine().spins;
  pause();
}

// At atomics and fences: in the shuffled order, now and then let the others in between.
inline void maybe_pause() {
  Machine& m = machine();
  if (m.order != Order::kShuffled || m.random() % 4 != 0) return;
  ++m.progress;
  pause();
}

inline void wait_until(const std::function<bool()>& done) {
  Thread& thread = self();
  ++machine().progress;
  if (done()) return;
  thread.may_go_on = &done;
  pause();
  thread.may_go_on = nullptr;
  ++machine().progress;
}

// --- Barriers of a block ---------------------------------------------------------------------------------------------

inline void complete(Barrier& barrier) {
  barrier.result = barrier.total;
  barrier.arrived = barrier.total = 0;
  ++barrier.round;
}

// expected 0: all threads of the block that have not ended. Returns the sum of what they brought.
inline int block_barrier(int id, int expected, int brought) {
  Block& block = *self().block;
  Barrier& barrier = block.barrier[id];
  const uint64_t round = barrier.round;
  ++barrier.arrived;
  barrier.total += brought;
  if (barrier.arrived == (expected != 0 ? expected : block.alive)) complete(barrier);
  wait_until([&] { return barrier.round != round; });
  return barrier.result;
}

inline void thread_ended(Block& block) {
  ++machine().progress;
  --block.alive;
  Barrier& barrier = block.barrier[0];
  if (block.alive > 0 && barrier.arrived == block.alive) complete(barrier);
}

// --- Collectives of a warp -------------------------------------------------------------------------------------------

inline Collective& meet(const char* name, uint32_t mask) {
  Thread& thread = self();
  auto& open = thread.block->collectives[thread.warp()];
  const uint32_t bit = 1u << thread.lane();
  if (!(mask & bit)) fail(std::string(name) + " by a lane that its mask leaves out");
  for (auto& collective : open) {
    if (collective->mask != mask || collective->arrived == mask) continue;
    if (std::strcmp(collective->name, name) != 0) fail(std::string(name) + " meets " + collective->name);
    return *collective;
  }
  open.push_back(std::make_unique<Collective>(Collective{name, mask, 0, 0, {}}));
  return *open.back();
}

// Every lane of the mask brings `mine` and gets all of them; those of other lanes are poison.
template <typename T>
struct Lanes {
  T lane[kWarp];
};

template <typename T>
Lanes<T> exchange(const char* name, uint32_t mask, const T& mine) {
  static_assert(sizeof(T) <= kMaxExchangeBytes, "raise kMaxExchangeBytes");
  Thread& thread = self();
  const uint32_t bit = 1u << thread.lane();
  Collective& here = meet(name, mask);
  std::memcpy(here.value[thread.lane()], &mine, sizeof(T));
  here.arrived |= bit;
  wait_until([&] { return here.arrived == here.mask; });
  Lanes<T> all;
  std::memset(static_cast<void*>(&all), kPoison, sizeof all);
  for (int lane = 0; lane < kWarp; ++lane) {
    if (mask >> lane & 1) std::memcpy(&all.lane[lane], here.value[lane], sizeof(T));
  }
  here.left |= bit;
  if (here.left == here.mask) {
    auto& open = thread.block->collectives[thread.warp()];
    for (size_t i = 0; i < open.size(); ++i) {
      if (open[i].get() == &here) {
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
        break;
      }
    }
  }
  return all;
}

// --- The scheduler ---------------------------------------------------------------------------------------------------

// Threads read these as they do in CUDA; set at every switch.
inline dim3 thread_index, block_index, block_dim, grid_dim;

constexpr size_t kGuardBytes = 64;  // behind dynamic shared memory

inline size_t static_shared_bytes() { return static_cast<size_t>(__stop_pspec_shared - __start_pspec_shared); }

inline void make_resident(Block& block) {
  Machine& m = machine();
  const size_t bytes = static_shared_bytes();
  if (m.resident == &block || bytes == 0) return;
  if (m.resident != nullptr) std::memcpy(m.resident->static_shared.data(), __start_pspec_shared, bytes);
  std::memcpy(__start_pspec_shared, block.static_shared.data(), bytes);
  m.resident = &block;
}

inline std::unique_ptr<Block> make_block(Launch& launch, dim3 index) {
  auto block = std::make_unique<Block>();
  const int threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  block->index = index;
  block->alive = threads;
  block->collectives.resize((threads + kWarp - 1) / kWarp);
  block->dynamic_shared.assign(launch.shared_bytes + kGuardBytes + 128, static_cast<char>(kPoison));
  block->static_shared.assign(static_shared_bytes(), static_cast<char>(kPoison));
  for (int t = 0; t < threads; ++t) {
    auto thread = std::make_unique<Thread>();
    thread->linear = t;
    thread->index = dim3(t % launch.block.x, t / launch.block.x % launch.block.y, t / (launch.block.x * launch.block.y));
    thread->block = block.get();
    thread->fiber.start([&launch, b = block.get()] {
      launch.body();
      thread_ended(*b);
    });
    block->threads.push_back(std::move(thread));
  }
  return block;
}

inline char* dynamic_shared() {  // 128-byte aligned
  const auto start = reinterpret_cast<uintptr_t>(self().block->dynamic_shared.data());
  return reinterpret_cast<char*>((start + 127) / 128 * 128);
}

inline void check_guard(const Block& block, size_t shared_bytes) {
  const auto start = reinterpret_cast<uintptr_t>(block.dynamic_shared.data());
  const size_t offset = (start + 127) / 128 * 128 - start;
  for (size_t i = 0; i < kGuardBytes; ++i) {
    if (block.dynamic_shared[offset + shared_bytes + i] != static_cast<char>(kPoison)) {
      fail("a store past the end of dynamic shared memory");
    }
  }
}

inline void give_turn(Thread& thread) {
  Machine& m = machine();
  make_resident(*thread.block);
  m.thread = &thread;
  thread_index = thread.index;
  block_index = thread.block->index;
  thread.fiber.run();
  m.thread = nullptr;
  if (thread.fiber.error()) std::rethrow_exception(thread.fiber.error());
}

// Runs these blocks side by side to the end.
inline void run_blocks(const std::vector<std::unique_ptr<Block>>& blocks) {
  Machine& m = machine();
  std::vector<Thread*> open;
  for (const auto& block : blocks) {
    for (const auto& thread : block->threads) open.push_back(thread.get());
  }
  if (m.order == Order::kDescending) open = {open.rbegin(), open.rend()};
  for (int idle = 0; !open.empty();) {
    if (m.order == Order::kShuffled) std::shuffle(open.begin(), open.end(), m.random);
    const uint64_t progress = m.progress, spins = m.spins;
    for (Thread* thread : open) {
      if (thread->may_go_on == nullptr || (*thread->may_go_on)()) give_turn(*thread);
    }
    const auto ended = [](Thread* thread) { return thread->fiber.finished(); };
    open.erase(std::remove_if(open.begin(), open.end(), ended), open.end());
    idle = m.progress != progress ? 0 : idle + 1;
    if (open.empty() || idle == 0) continue;
    if (m.spins == spins) fail("deadlock: " + std::to_string(open.size()) + " threads wait for some that never come");
    if (idle > kIdleTurns) fail("deadlock: only spin loops run (blocks that wait for each other: launch cooperatively)");
  }
}

// cooperative: all blocks side by side; else one after another, which shows what wrongly relies on the former.
inline void launch(dim3 grid, dim3 block, size_t shared_bytes, bool cooperative, std::function<void()> body) {
  Machine& m = machine();
  if (m.launch != nullptr) fail("a launch within a launch");
  Launch launch{grid, block, shared_bytes, std::move(body)};
  block_dim = block;
  grid_dim = grid;
  ++m.launches;
  struct Restore {
    ~Restore() { machine().launch = nullptr, machine().resident = nullptr, machine().thread = nullptr; }
  } restore;
  m.launch = &launch;
  std::vector<std::unique_ptr<Block>> blocks;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blocks.push_back(make_block(launch, dim3(x, y, z)));
        if (cooperative) continue;
        run_blocks(blocks);
        check_guard(*blocks.front(), shared_bytes);
        m.resident = nullptr;
        blocks.clear();
      }
    }
  }
  if (cooperative) run_blocks(blocks);
  for (const auto& one : blocks) check_guard(*one, shared_bytes);
}

}  // namespace pspec::emulation
