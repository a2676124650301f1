// The WHILE graph of a captured round: one root graph, one conditional node, the round as its body.
#include "while_graph.h"

#include <cuda_runtime.h>

#include <memory>

#include "launch.cuh"

namespace pspec::cuda {
namespace {

struct WhileGraph {
  cudaGraph_t root = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaGraphConditionalHandle condition = 0;

  ~WhileGraph() {
    if (executable) cudaGraphExecDestroy(executable);
    if (root) cudaGraphDestroy(root);
  }
};

// The empty body of a new WHILE node.
cudaGraph_t add_while_node(cudaGraph_t root, cudaGraphConditionalHandle condition) {
  cudaGraphNodeParams params = {};
  params.type = cudaGraphNodeTypeConditional;
  params.conditional.handle = condition;
  params.conditional.type = cudaGraphCondTypeWhile;
  params.conditional.size = 1;
  cudaGraphNode_t node;
#if CUDART_VERSION >= 13000
  throw_on(cudaGraphAddNode(&node, root, nullptr, nullptr, 0, &params), "adding a WHILE node");
#else
  throw_on(cudaGraphAddNode(&node, root, nullptr, 0, &params), "adding a WHILE node");
#endif
  return params.conditional.phGraph_out[0];
}

// Ahead of a burst: two words in stream order, as a kernel, since a copy from pageable memory would wait.
__global__ void write_condition(int32_t* control, cudaGraphConditionalHandle condition) {
  control[2] = static_cast<int32_t>(condition & 0xffffffffu);
  control[3] = static_cast<int32_t>(condition >> 32);
}

}  // namespace

uint64_t while_create(uint64_t round) {
  auto graph = std::make_unique<WhileGraph>();
  throw_on(cudaGraphCreate(&graph->root, 0), "creating a graph");
  // The default, 1, is assigned at every launch, so each burst runs at least one round.
  throw_on(cudaGraphConditionalHandleCreate(&graph->condition, graph->root, 1, cudaGraphCondAssignDefault),
           "creating the condition of a WHILE graph (a driver of CUDA 12.4 or newer is needed)");
  cudaGraph_t body = add_while_node(graph->root, graph->condition);
  cudaGraphNode_t child;
  throw_on(cudaGraphAddChildGraphNode(&child, body, nullptr, 0, reinterpret_cast<cudaGraph_t>(round)),
           "putting the round into the body of a WHILE graph");
  throw_on(cudaGraphInstantiate(&graph->executable, graph->root, 0), "instantiating a WHILE graph");
  return reinterpret_cast<uint64_t>(graph.release());
}

void while_launch(uint64_t handle, int32_t* control, void* stream) {
  const auto* graph = reinterpret_cast<const WhileGraph*>(handle);
  const auto on = static_cast<cudaStream_t>(stream);
  write_condition<<<1, 1, 0, on>>>(control, graph->condition);
  throw_on(cudaGetLastError(), "writing the condition of a WHILE graph");
  throw_on(cudaGraphLaunch(graph->executable, on), "launching a WHILE graph");
}

void while_destroy(uint64_t handle) { delete reinterpret_cast<WhileGraph*>(handle); }

}  // namespace pspec::cuda
