// Bindings of the kernels: integers -> checks -> Params -> launch.
#include "../cpu/launch.h"
#include "api.h"
#include "graph.h"
#include "shared_ops.h"

namespace pspec::api {
namespace {

void linear(Address x, Address w, Address bias, Address norm, Address out, Int R, Int I, Int O, float eps, bool gated,
            bool add, int x_dtype, int w_dtype, int out_dtype) {
  check(R >= 0 && I > 0 && O >= 0, "linear: sizes must be positive");
  if (R == 0) return;
  launch("linear", cpu::linear, {pointer<void>(x), pointer<void>(w), pointer<void>(bias), pointer<void>(norm),
               pointer<void>(out), R, I, O, eps, gated, add, dtype(x_dtype), weight_dtype(w_dtype), dtype(out_dtype)});
}

void tree_attention(Address q, Address k, Address v, Address prefix, Address words, Address out, Int B, Int N, Int H,
                    Int G, Int S, Int E, float scale, Int window, int dtype_code, Int cache_stride_b,
                    Int cache_stride_g) {
  check(B >= 0 && S > 0 && E > 0, "tree_attention: sizes must be positive");
  check(N >= 1 && N <= 64, "tree_attention: N must be 1..64");
  check(G >= 1 && H >= G && H % G == 0, "tree_attention: H must be a multiple of G");
  launch("tree_attention", cpu::tree_attention, {pointer<void>(q), pointer<void>(k), pointer<void>(v), pointer<int32_t>(prefix),
                       pointer<int64_t>(words), pointer<void>(out), B, N, H, G, S, E, scale, window,
                       dtype(dtype_code), cache_stride_b, cache_stride_g});
}

void head_top_k(Address x, Address w, Address out_ids, Address out_scores, Address temperature, Address noise,
                Address noise_row, Address id_map, Int R, Int M, Int D, Int V, Int C, int x_dtype, int w_dtype) {
  check(R >= 0 && M > 0, "head_top_k: sizes must be positive");
  check(C >= 1 && C <= 16 && C <= D, "head_top_k: C must be 1..16 and at most D");
  check(temperature == 0 || (noise != 0 && noise_row != 0), "head_top_k: temperature needs noise and noise_row");
  launch("head_top_k", cpu::head_top_k, {pointer<void>(x), pointer<void>(w), pointer<int32_t>(out_ids), pointer<float>(out_scores),
                   pointer<float>(temperature), pointer<float>(noise), pointer<int32_t>(noise_row),
                   pointer<int32_t>(id_map), R, M, D, V, C, dtype(x_dtype), weight_dtype(w_dtype)});
}

void gumbel_noise(Address seed, Address first_position, Address out, Int B, Int P, Int V) {
  check(B >= 0 && P >= 0 && V > 0, "gumbel_noise: sizes must be positive");
  launch("gumbel_noise", cpu::gumbel_noise, {pointer<int64_t>(seed), pointer<int32_t>(first_position), pointer<float>(out), B, P, V});
}

void cast(Address x, Address out, Int size, int x_dtype, int out_dtype) {
  check(size >= 0, "cast: sizes must be positive");
  launch("cast", cpu::cast, {pointer<void>(x), pointer<void>(out), size, dtype(x_dtype), dtype(out_dtype)});
}

void silu_add(Address y, Address out, Int R, Int M, int dtype_code) {
  check(R >= 0 && M > 0, "silu_add: sizes must be positive");
  launch("silu_add", cpu::silu_add, {pointer<void>(y), pointer<void>(out), R, M, dtype(dtype_code)});
}

void store_tap(Address state, Address features, Int R, Int row_bytes, Int features_row_bytes, Int column_bytes) {
  check(R >= 0 && row_bytes > 0 && column_bytes >= 0, "store_tap: sizes must be positive");
  check(column_bytes + row_bytes <= features_row_bytes, "store_tap: the columns lie outside the features");
  launch("store_tap", cpu::store_tap, {pointer<char>(state), pointer<char>(features), R, row_bytes, features_row_bytes, column_bytes});
}

void gather_features(Address features, Address path, Address out, Int B, Int P, Int N, Int row_bytes) {
  check(B >= 0 && P >= 0 && N >= 0 && row_bytes >= 0, "gather_features: sizes must be positive");
  launch("gather_features", cpu::gather_features, {pointer<char>(features), pointer<int32_t>(path), pointer<char>(out),
                        B, P, N, row_bytes});
}

void embed(Address ids, Address table, Address out, Int R, Int V, Int M, int table_dtype, int dtype_code) {
  check(R >= 0 && V > 0 && M > 0, "embed: sizes must be positive");
  check(table_dtype >= 2 || table_dtype == dtype_code, "embed: rows have the table's dtype unless that is int8");
  launch("embed", cpu::embed, {pointer<int32_t>(ids), pointer<void>(table), pointer<void>(out), R, V, M,
                      weight_dtype(table_dtype), dtype(dtype_code)});
}

void add_rms_norm(Address x, Address residual, Address weight, Address out, Int R, Int M, float eps, int dtype_code) {
  check(R >= 0 && M > 0, "add_rms_norm: sizes must be positive");
  launch("add_rms_norm", cpu::add_rms_norm, {pointer<void>(x), pointer<void>(residual), pointer<void>(weight), pointer<void>(out), R, M, eps,
                     dtype(dtype_code)});
}

void silu_mul(Address gate_up, Address out, Int R, Int I, int dtype_code) {
  check(R >= 0 && I > 0, "silu_mul: sizes must be positive");
  launch("silu_mul", cpu::silu_mul, {pointer<void>(gate_up), pointer<void>(out), R, I, dtype(dtype_code)});
}

void rope_append(Address qkv, Address positions, Address prefix, Address cos, Address sin, Address k, Address v,
                 Address q, Address q_norm, Address k_norm, Int B, Int N, Int H, Int G, Int S, Int E,
                 Int max_positions, float eps, int dtype_code, Int cache_stride_b, Int cache_stride_g) {
  check(B >= 0 && N >= 0 && H >= 0 && G >= 0 && S > 0, "rope_append: sizes must be positive");
  check(E > 0 && E % 2 == 0 && max_positions > 0, "rope_append: E must be even, the tables not empty");
  launch("rope_append", cpu::rope_append, {pointer<void>(qkv), pointer<int32_t>(positions), pointer<int32_t>(prefix), pointer<float>(cos),
                    pointer<float>(sin), pointer<void>(k), pointer<void>(v), pointer<void>(q), pointer<void>(q_norm),
                    pointer<void>(k_norm), B, N, H, G, S, E, max_positions, eps, dtype(dtype_code), cache_stride_b,
                    cache_stride_g});
}

void draft_inputs(Address ids, Address features, Address count, Address masks, Address fc, Address out, Address table,
                  Address bias, Address anchor_map, Int B, Int P, Int J, Int M, Int F, Int E, Int V, int dtype_code,
                  int table_dtype) {
  check(B >= 0 && P >= 1 && J >= 0 && M > 0 && F >= 0 && E >= 0, "draft_inputs: sizes must be positive");
  check((table == 0) == (E == 0) && E + F > 0 && (table == 0 || V > 0), "draft_inputs: E must be the table's width");
  launch("draft_inputs", cpu::draft_inputs, {pointer<int32_t>(ids), pointer<void>(features), pointer<int32_t>(count), pointer<void>(masks),
                     pointer<void>(fc), pointer<void>(out), pointer<void>(table), pointer<void>(bias),
                     pointer<void>(anchor_map), B, P, J, M, F, E, V, dtype(dtype_code), weight_dtype(table_dtype)});
}

void select_tokens(Address logits, Address out_ids, Address temperature, Address top_k, Address top_p, Address min_p,
                   Address noise, Address noise_row, Address out_logprob, Address out_top_ids,
                   Address out_top_logprobs, Int R, Int V, Int top) {
  check(R >= 0 && V > 0, "select_tokens: sizes must be positive");
  check(top >= 0 && top <= V && (out_top_ids == 0) == (out_top_logprobs == 0),
        "select_tokens: at most V top tokens, ids and logprobs together");
  launch("select_tokens", cpu::select_tokens, {pointer<float>(logits), pointer<int32_t>(out_ids), pointer<float>(temperature),
                      pointer<int32_t>(top_k), pointer<float>(top_p), pointer<float>(min_p), pointer<float>(noise),
                      pointer<int32_t>(noise_row), pointer<float>(out_logprob), pointer<int32_t>(out_top_ids),
                      pointer<float>(out_top_logprobs), R, V, top});
}

// The binding of a CPU kernel whose Params are made by a function that CUDA's binding shares.
template <typename Params, typename... Args>
auto on_cpu(const char* op, Params (*params)(Args...), void (*kernel)(const Params&)) {
  return [=](Args... args) { launch(op, kernel, params(args...)); };
}

}  // namespace

void bind_ops(pybind11::module_& m) {
  m.def("linear", linear, ReleaseGil());
  m.def("tree_attention", tree_attention, ReleaseGil());
  m.def("head_top_k", head_top_k, ReleaseGil());
  m.def("gumbel_noise", gumbel_noise, ReleaseGil());
  m.def("build_tree", on_cpu("build_tree", build_tree_params, cpu::build_tree), ReleaseGil());
  m.def("accept", on_cpu("accept", accept_params, cpu::accept), ReleaseGil());
  m.def("draft_rows", on_cpu("draft_rows", draft_rows_params, cpu::draft_rows), ReleaseGil());
  m.def("grow_tree", on_cpu("grow_tree", grow_tree_params, cpu::grow_tree), ReleaseGil());
  m.def("prune_tree", on_cpu("prune_tree", prune_tree_params, cpu::prune_tree), ReleaseGil());
  m.def("cast", cast, ReleaseGil());
  m.def("silu_add", silu_add, ReleaseGil());
  m.def("store_tap", store_tap, ReleaseGil());
  m.def("gather_features", gather_features, ReleaseGil());
  m.def("move_rows", on_cpu("move_rows", move_rows_params, cpu::move_rows), ReleaseGil());
  m.def("ngram_draft", on_cpu("ngram_draft", ngram_draft_params, cpu::ngram_draft), ReleaseGil());
  m.def("blend_candidates", on_cpu("blend_candidates", blend_candidates_params, cpu::blend_candidates), ReleaseGil());
  m.def("compact_kv", on_cpu("compact_kv", compact_kv_params, cpu::compact_kv), ReleaseGil());
  m.def("embed", embed, ReleaseGil());
  m.def("add_rms_norm", add_rms_norm, ReleaseGil());
  m.def("silu_mul", silu_mul, ReleaseGil());
  m.def("rope_append", rope_append, ReleaseGil());
  m.def("select_tokens", select_tokens, ReleaseGil());
  m.def("draft_inputs", draft_inputs, ReleaseGil());
}

}  // namespace pspec::api
