// Bindings of the integer kernels of a round on a GPU: the CPU's arguments, then the stream.
#include "loop_ops.h"

#include "../api/shared_ops.h"

namespace pspec::api {
namespace {

template <typename Params, typename... Args>
auto on_cuda(Params (*params)(Args...), void (*kernel)(const Params&, void*)) {
  return [=](Args... args, Address stream) { kernel(params(args...), pointer<void>(stream)); };
}

}  // namespace

void bind_cuda_loop(pybind11::module_& m) {
  m.def("cuda_draft_rows", on_cuda(draft_rows_params, cuda::draft_rows), ReleaseGil());
  m.def("cuda_grow_tree", on_cuda(grow_tree_params, cuda::grow_tree), ReleaseGil());
  m.def("cuda_prune_tree", on_cuda(prune_tree_params, cuda::prune_tree), ReleaseGil());
  m.def("cuda_build_tree", on_cuda(build_tree_params, cuda::build_tree), ReleaseGil());
  m.def("cuda_accept", on_cuda(accept_params, cuda::accept), ReleaseGil());
  m.def("cuda_compact_kv", on_cuda(compact_kv_params, cuda::compact_kv), ReleaseGil());
  m.def("cuda_move_rows", on_cuda(move_rows_params, cuda::move_rows), ReleaseGil());
  m.def("cuda_ngram_draft", on_cuda(ngram_draft_params, cuda::ngram_draft), ReleaseGil());
  m.def("cuda_blend_candidates", on_cuda(blend_candidates_params, cuda::blend_candidates), ReleaseGil());
}

}  // namespace pspec::api
