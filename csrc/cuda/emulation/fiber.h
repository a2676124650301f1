// Fibers: one stack and one place in the code per CUDA thread of an emulated launch, all on one host thread.
#pragma once

#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <new>
#include <vector>

namespace pspec::emulation {

constexpr size_t kStackBytes = 128 << 10;

// Stacks of a launch's fibers, kept for the next launch; the system commits only the pages that are touched.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() {
    for (char* stack : free_) munmap(stack, kStackBytes);
  }
  char* take() {
    if (!free_.empty()) {
      char* stack = free_.back();
      free_.pop_back();
      return stack;
    }
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw std::bad_alloc();
    mprotect(stack, 4096, PROT_NONE);  // an overflow faults instead of writing on somebody else's stack
    return static_cast<char*>(stack);
  }
  void give_back(char* stack) { free_.push_back(stack); }

 private:
  std::vector<char*> free_;
};

// Switching is setjmp / longjmp: a context switch by ucontext alone costs two system calls.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
    if (stack_ != nullptr) stacks().give_back(stack_);
  }

  void start(std::function<void()> body) {
    body_ = std::move(body);
    if (stack_ == nullptr) stack_ = stacks().take();
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, &Fiber::enter, 0);
    entered_ = finished_ = false;
  }

  // Scheduler: runs the fiber until it pauses or ends.
  void run() {
    current() = this;
    if (_setjmp(scheduler_) == 0) {
      if (entered_) _longjmp(fiber_, 1);
      entered_ = true;
      setcontext(&context_);
    }
  }

  // Fiber: back to the scheduler.
  void pause() {
    if (_setjmp(fiber_) == 0) _longjmp(scheduler_, 1);
  }

  bool finished() const { return finished_; }
  std::exception_ptr error() const { return error_; }

 private:
  static Fiber*& current() {
    static Fiber* fiber = nullptr;
    return fiber;
  }
  static Stacks& stacks() {
    static Stacks all;
    return all;
  }
  static void enter() {
    Fiber* self = current();
    try {
      self->body_();
    } catch (...) {
      self->error_ = std::current_exception();
    }
    self->finished_ = true;
    _longjmp(self->scheduler_, 1);
  }

  std::function<void()> body_;
  ucontext_t context_;
  jmp_buf scheduler_, fiber_;
  char* stack_ = nullptr;
  bool entered_ = false, finished_ = false;
  std::exception_ptr error_;
};

}  // namespace pspec::emulation
