// A small pool of our own: splits a range statically, so work and results never depend on timing.
//
// Not OpenMP: torch has its own OpenMP pool, and two of them in one process fight for the cores between two ops.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace pspec {

// One contiguous part of [0, n) per thread; `thread` counts from 0 and is below num_threads().
using RangeTask = std::function<void(int64_t begin, int64_t end, int thread)>;

// Runs the task on all of [0, n), cut at multiples of `grain`. Called from several threads at once, one gets the pool
// and the others run alone: correct because no kernel's result depends on the number of threads.
void parallel_for(int64_t n, int64_t grain, const RangeTask& task);

int num_threads();
// Not while another thread is inside parallel_for: the old workers are joined.
void set_num_threads(int n);

// fp32 scratch of the calling thread that grows and is never given back; `slot` tells apart buffers in use at once.
enum class ScratchSlot { kActivations, kPartials, kOutputs, kWork, kCount };
float* scratch(ScratchSlot slot, int64_t floats);

}  // namespace pspec
