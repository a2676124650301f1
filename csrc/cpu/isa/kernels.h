// The inner loops that are compiled once per instruction set, as one table of functions per set.
//
// Everything here is a function of one row (or one row and one run of keys) with a fixed order of operations; threads,
// memory and the order in which results are combined belong to the callers in csrc/cpu.
#pragma once

#include <cstdint>

#include "../../params.h"
#include "weight_stream.h"

namespace pspec {

constexpr int kRun = 128;           // logical positions per attention run
constexpr int kHeadTile = 256;      // vocabulary rows per tile of the head
constexpr int kMaxTreeRows = 64;    // one bit per node in an ancestor word
constexpr int kMaxAttendRows = 64;  // query rows per AttendRun
constexpr int64_t kRowAlign = 16;   // floats; rows of fp32 scratch are padded to this
constexpr int kMaxIsas = 5;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One run of one group of query rows that share a KV head. E4 = E rounded up to kRowAlign.
struct AttendRun {
  const float* q;        // [rows, E] packed by Kernels::pack
  const void* k;         // [S, E] cache of this (slot, KV head)
  const void* v;         // [S, E]
  DType dtype;
  int64_t E, E4;
  int rows;              // at most kMaxAttendRows
  float scale;           // of q k
  const uint64_t* words;  // [rows] ancestor word of each row
  int64_t prefix;        // committed keys
  int tree_rows;         // scratch rows that exist after the prefix
  int64_t window;        // 0: none
  int64_t run;           // logical positions run * kRun ..
  float* scratch;        // attend_scratch(rows, E4) floats
  float* max;            // [rows] out: largest score; -inf if the row has no key in this run
  float* sum;            // [rows] out: sum of exp(score - max)
  float* acc;            // [rows, E4] out: sum of exp(score - max) * v
};

// One row of add_rms_norm.
struct NormRow {
  const void* x;       // [M] T, or null
  void* residual;      // [M] T, in place
  const void* weight;  // [M] T
  void* out;           // [M] T
  int64_t M;
  float eps;
  DType dtype;
};

// One head of one row: out = rope(norm(x)).
struct RopeHead {
  const void* x;       // [E] T
  const void* weight;  // [E] T of the norm, or null: no norm
  const float* cos;    // [E/2]
  const float* sin;    // [E/2]
  void* out;           // [E] T
  int64_t E;
  float eps;
  DType dtype;
};

// How the values of a row are spread below their maximum.
constexpr int kDepths = 8;
constexpr float kDepth[kDepths] = {1.0f, 2.0f, 3.0f, 4.5f, 6.5f, 9.0f, 13.0f, 20.0f};
struct Spread {
  int64_t count[kDepths];  // values >= max - kDepth[i]
  double mass[kDepths];    // their summed exp(value - max)
  double total;            // summed over all values
};

struct Kernels {
  const char* name;
  bool (*supported)();
  bool follows_stream;  // `dot` of bf16 fetches ahead by its stream
  // Activation rows x [R, I] in the form `dot` wants, in packed_floats(R, I) floats.
  int64_t (*packed_floats)(int64_t R, int64_t I);
  void (*pack)(const void* x, DType x_dtype, DType w_dtype, int64_t R, int64_t I, float* packed);
  // out[r * out_stride + o] = dot(x[r], w[o]) in fp32, w: [O, I]. A dot's order of operations depends on I and the two
  // dtypes alone. stream: what the thread reads from here on, or null.
  void (*dot)(const float* packed, DType x_dtype, int64_t R, const void* w, DType w_dtype, int64_t O, int64_t I,
              WeightStream* stream, float* out, int64_t out_stride);
  void (*attend_run)(const AttendRun& run);
  // Folds `runs` partial results of one row, `stride` rows apart, in order; out: [E4] normalized.
  void (*fold_runs)(const float* max, const float* sum, const float* acc, int64_t runs, int64_t stride, int64_t E4,
                    float* out);
  float (*max)(const float* values, int64_t n);
  // Sum of exp(value - max).
  float (*sum_exp)(const float* values, int64_t n, float max);
  // out[0..V) = gumbel(seed, position, v) for v = first..last-1, written at out[v].
  void (*gumbel)(uint64_t seed, int32_t position, int64_t first, int64_t last, float* out);
  void (*to_float)(const uint16_t* from, int64_t n, float* to);
  void (*from_float)(const float* from, int64_t n, uint16_t* to);
  void (*norm_row)(const NormRow& row);
  // out[i] = silu(gate[i]) * up[i], i < I.
  void (*silu_mul_row)(const void* gate, const void* up, void* out, int64_t I, DType dtype);
  void (*rope_head)(const RopeHead& head);
  void (*divide)(const float* values, int64_t n, float by, float* out);
  void (*add)(const float* a, const float* b, int64_t n, float* out);
  // Index of the first of the largest values; -1 if they are all NaN or -inf.
  int64_t (*argmax)(const float* values, int64_t n);
  void (*spread)(const float* values, int64_t n, float max, Spread* out);
  // Writes the indices of the values >= least, ascending, and returns how many there are.
  int64_t (*gather)(const float* values, int64_t n, float least, int32_t* out);
  // values[i] = exp(values[i] - max), and returns their sum; room up to a multiple of kRowAlign.
  float (*exp)(float* values, int64_t n, float max);
};

// Floats of AttendRun::scratch, enough for every instruction set (see Scratch in attend.h and add_direct).
constexpr int64_t attend_scratch(int64_t rows, int64_t E4) {
  return kRun * E4 + rows * (2 * kRun + 16) + kRun * E4 / 2 + 8 * kRun;
}

// The table of the active instruction set: PSPEC_CPU_ISA if set through set_isa(), else the best this CPU has.
const Kernels& kernels();
const char* isa_name();
// Returns false if this build or this CPU has no such set. An empty name means: the best.
bool set_isa(const char* name);
// Names this CPU can run, best first; returns how many (<= kMaxIsas).
int usable_isas(const char** names);

}  // namespace pspec
