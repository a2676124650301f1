// The thread pool: workers spin for a moment after each task, because the next op of a round follows at once.
#include "thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace pspec {
namespace {

constexpr int kSpins = 8000;  // some hundred microseconds before a worker sleeps: more than Python takes between two

// One step of waiting. Now and then the core is offered to others: a thread just woken often lands on the core of the one
// that woke it, and would wait there for it to stop spinning.
inline void wait_a_moment(int spins) {
  constexpr int kSpinsPerYield = 64;  // some microseconds
  if (spins % kSpinsPerYield == kSpinsPerYield - 1) {
    std::this_thread::yield();
    return;
  }
#if defined(PSPEC_X86)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }

  ~Pool() {
    publish(nullptr, 0, 1);
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return threads_; }

  void run(int64_t n, int64_t grain, const RangeTask& task) {
    std::unique_lock<std::mutex> only(caller_, std::try_to_lock);
    const int64_t grains = (n + grain - 1) / grain;
    if (threads_ == 1 || grains <= 1 || !only.owns_lock()) {
      if (n > 0) task(0, n, 0);
      return;
    }
    publish(&task, n, grain);
    run_part(0);
    for (int spins = 0; pending_.load(std::memory_order_acquire) != 0; ++spins) wait_a_moment(spins);
  }

 private:
  void publish(const RangeTask* task, int64_t n, int64_t grain) {
    task_ = task;
    n_ = n;
    grain_ = grain;
    pending_.store(threads_ - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      epoch_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

  void run_part(int thread) {
    const int64_t grains = (n_ + grain_ - 1) / grain_;
    const int64_t begin = std::min(n_, grains * thread / threads_ * grain_);
    const int64_t end = std::min(n_, grains * (thread + 1) / threads_ * grain_);
    if (begin < end) (*task_)(begin, end, thread);
  }

  void work(int thread) {
    uint64_t seen = 0;
    while (true) {
      wait_for_epoch(seen + 1);
      ++seen;
      if (task_ == nullptr) return;
      run_part(thread);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  void wait_for_epoch(uint64_t wanted) {
    for (int spins = 0; spins < kSpins; ++spins) {
      if (epoch_.load(std::memory_order_acquire) >= wanted) return;
      wait_a_moment(spins);
    }
    std::unique_lock<std::mutex> lock(sleep_);
    wake_.wait(lock, [&] { return epoch_.load(std::memory_order_acquire) >= wanted; });
  }

  const int threads_;
  std::mutex caller_;  // held by the thread whose task the pool runs
  std::mutex sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> epoch_{0};  // number of tasks published
  std::atomic<int> pending_{0};     // workers still at it
  const RangeTask* task_ = nullptr;
  int64_t n_ = 0, grain_ = 1;
  std::vector<std::thread> workers_;
};

// Never destroyed at exit: joining threads from a static destructor can hang an interpreter that is shutting down.
// In a forked child the workers do not exist, so the child forgets the pool and makes its own at the next task.
std::atomic<Pool*> pool{nullptr};
std::atomic<int> wanted_threads{0};
std::mutex* pool_mutex = new std::mutex;

void forget_pool() {
  pool = nullptr;
  pool_mutex = new std::mutex;
}

Pool& current_pool() {
  if (Pool* ready = pool.load(std::memory_order_acquire)) return *ready;
  std::lock_guard<std::mutex> lock(*pool_mutex);
  if (pool.load() == nullptr) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    (void)registered;
    pool.store(new Pool(num_threads()), std::memory_order_release);
  }
  return *pool;
}

}  // namespace

void parallel_for(int64_t n, int64_t grain, const RangeTask& task) { current_pool().run(n, grain, task); }

int num_threads() {
  const int wanted = wanted_threads.load();
  return wanted > 0 ? wanted : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void set_num_threads(int n) {
  std::lock_guard<std::mutex> lock(*pool_mutex);
  if (wanted_threads.exchange(n) == n) return;
  delete pool.exchange(nullptr);
}

float* scratch(ScratchSlot slot, int64_t floats) {
  struct Buffer {
    float* data = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(data); }
  };
  static thread_local Buffer buffers[static_cast<int>(ScratchSlot::kCount)];
  Buffer& buffer = buffers[static_cast<int>(slot)];
  if (buffer.size < floats) {
    std::free(buffer.data);
    buffer.size = (floats + 1023) / 1024 * 1024;
    buffer.data = static_cast<float*>(std::aligned_alloc(64, buffer.size * sizeof(float)));
    if (buffer.data == nullptr) throw std::bad_alloc();
  }
  return buffer.data;
}

}  // namespace pspec
