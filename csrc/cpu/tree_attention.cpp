// tree_attention: every node attends to the committed prefix and to its own path; flash-decoding over fixed runs.
//
// Phase 1 computes (max, sum, weighted values) for each (slot, KV head, block of query rows, run of logical
// positions); phase 2 folds a row's runs in order. How the work is split changes no bit of any row.
#include <algorithm>
#include <cstring>

#include "convert.h"
#include "launch.h"

namespace pspec::cpu {
namespace {

struct Plan {
  const TreeAttentionParams& p;
  int64_t E4 = 0;                // E padded
  int64_t tree_rows = 0;         // rows behind the prefix that are read
  int64_t rows = 0;              // query rows per (slot, KV head): node-major, then the heads that share the KV head
  int64_t block = 0;             // query rows per task
  int64_t runs = 0;              // runs of the longest slot
  int64_t blocks = 0;            // tasks that share a slot's KV head and run
  int64_t packed = 0;            // floats of a block of queries
  float* q = nullptr;            // [B, G, blocks, packed]
  float* max = nullptr;          // [runs, B, G, rows]
  float* sum = nullptr;          // [runs, B, G, rows]
  float* acc = nullptr;          // [runs, B, G, rows, E4]
  uint64_t* row_word = nullptr;  // [B, rows]

  int64_t all_rows() const { return p.B * p.G * rows; }
  int64_t heads() const { return p.H / p.G; }
  int64_t prefix(int64_t b) const { return std::max<int64_t>(p.prefix[b], 0); }

  // Index of the first element of head vector (b, row, g) in q and out, [B, N, H, E].
  int64_t head_offset(int64_t b, int64_t g, int64_t row) const {
    return ((b * p.N + row / heads()) * p.H + g * heads() + row % heads()) * p.E;
  }
};

// Rows behind the prefix that some word names.
int64_t count_tree_rows(const TreeAttentionParams& p) {
  uint64_t any = 0;
  for (int64_t i = 0; i < p.B * p.N; ++i) any |= static_cast<uint64_t>(p.words[i]);
  return any == 0 ? 0 : 64 - __builtin_clzll(any);
}

int64_t count_runs(const TreeAttentionParams& p, int64_t tree_rows) {
  int64_t longest = 0;
  for (int64_t b = 0; b < p.B; ++b) longest = std::max<int64_t>(longest, p.prefix[b]);
  return (longest + tree_rows + kRun - 1) / kRun;
}

// Rows per task: as many of a group's rows as possible, so that keys are read once for them, unless threads would stay
// idle.
int64_t choose_block(int64_t rows, int64_t tasks_per_block) {
  const int64_t for_threads = std::min(rows, (num_threads() + tasks_per_block - 1) / tasks_per_block);
  const int64_t blocks = std::max(for_threads, (rows + kMaxAttendRows - 1) / kMaxAttendRows);
  return (rows + blocks - 1) / blocks;
}

// Query rows of each block, side by side, packed for dot products.
void pack_queries(const Plan& plan, char* rows) {
  const TreeAttentionParams& p = plan.p;
  const int64_t row_bytes = p.E * size_of(p.dtype);
  float* packed = plan.q;
  for (int64_t i = 0; i < p.B * p.G * plan.blocks; ++i, packed += plan.packed) {
    const int64_t first = i % plan.blocks * plan.block, g = i / plan.blocks % p.G, b = i / plan.blocks / p.G;
    const int64_t count = std::min(plan.block, plan.rows - first);
    for (int64_t row = 0; row < count; ++row) {
      std::memcpy(rows + row * row_bytes, at(p.q, p.dtype, plan.head_offset(b, g, first + row)), row_bytes);
    }
    kernels().pack(rows, p.dtype, p.dtype, count, p.E, packed);
  }
  for (int64_t i = 0; i < p.B * plan.rows; ++i) {
    const int64_t b = i / plan.rows, node = i % plan.rows / plan.heads();
    plan.row_word[i] = static_cast<uint64_t>(p.words[b * p.N + node]);
  }
}

void run_task(const Plan& plan, int64_t run, int64_t b, int64_t g, int64_t block) {
  const TreeAttentionParams& p = plan.p;
  const int64_t first_row = block * plan.block;
  const int64_t cache = b * p.cache_stride_b + g * p.cache_stride_g;
  const int64_t row = (b * p.G + g) * plan.rows + first_row, partial = run * plan.all_rows() + row;
  const int rows = static_cast<int>(std::min(plan.block, plan.rows - first_row));
  const int64_t prefix = plan.prefix(b);
  AttendRun task = {};
  task.q = plan.q + ((b * p.G + g) * plan.blocks + block) * plan.packed;
  task.k = at(p.k, p.dtype, cache);
  task.v = at(p.v, p.dtype, cache);
  task.dtype = p.dtype;
  task.E = p.E;
  task.E4 = plan.E4;
  task.rows = rows;
  task.scale = p.scale;
  task.words = plan.row_word + b * plan.rows + first_row;
  task.prefix = prefix;
  task.tree_rows = static_cast<int>(std::min(plan.tree_rows, p.S - prefix));
  task.window = p.window;
  task.run = run;
  task.scratch = scratch(ScratchSlot::kOutputs, attend_scratch(rows, plan.E4));
  task.max = plan.max + partial;
  task.sum = plan.sum + partial;
  task.acc = plan.acc + partial * plan.E4;
  kernels().attend_run(task);
}

void fold_row(const Plan& plan, int64_t i) {
  const TreeAttentionParams& p = plan.p;
  const int64_t row = i % plan.rows, g = i / plan.rows % p.G, b = i / plan.rows / p.G;
  float* out = scratch(ScratchSlot::kOutputs, plan.E4);
  kernels().fold_runs(plan.max + i, plan.sum + i, plan.acc + i * plan.E4, plan.runs, plan.all_rows(), plan.E4, out);
  from_float(out, p.E, p.dtype, at(p.out, p.dtype, plan.head_offset(b, g, row)));
}

}  // namespace

void tree_attention(const TreeAttentionParams& p) {
  Plan plan = {p};
  plan.E4 = round_up(p.E, kRowAlign);
  plan.rows = p.N * p.H / p.G;
  plan.tree_rows = count_tree_rows(p);
  plan.runs = count_runs(p, plan.tree_rows);
  plan.block = choose_block(plan.rows, plan.runs * p.B * p.G);
  plan.blocks = (plan.rows + plan.block - 1) / plan.block;
  plan.packed = round_up(kernels().packed_floats(plan.block, p.E), kRowAlign);
  const int64_t all = plan.all_rows(), query_rows = plan.block * p.E;
  plan.q = scratch(ScratchSlot::kActivations, p.B * p.G * plan.blocks * plan.packed + query_rows);
  plan.acc = scratch(ScratchSlot::kPartials, plan.runs * all * (plan.E4 + 2));
  plan.max = plan.acc + plan.runs * all * plan.E4;
  plan.sum = plan.max + plan.runs * all;
  plan.row_word = reinterpret_cast<uint64_t*>(scratch(ScratchSlot::kWork, p.B * plan.rows * 2));
  pack_queries(plan, reinterpret_cast<char*>(plan.q + p.B * p.G * plan.blocks * plan.packed));

  // Dealt out one by one: the last runs of a slot hold few keys, or none.
  const int64_t tasks = plan.runs * p.B * p.G * plan.blocks;
  const int threads = num_threads();
  parallel_for(threads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t first = begin; first < end; ++first) {
      for (int64_t i = first; i < tasks; i += threads) {
        const int64_t group = i / plan.blocks;
        run_task(plan, group / p.G / p.B, group / p.G % p.B, group % p.G, i % plan.blocks);
      }
    }
  });
  constexpr int64_t kFoldGrain = 64;
  parallel_for(all, kFoldGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) fold_row(plan, i);
  });
}

}  // namespace pspec::cpu
