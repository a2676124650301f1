// Bindings of launch graphs: begin, end, replay, free.
#include "graph.h"

#include <map>
#include <memory>
#include <mutex>

#include "api.h"

namespace pspec::api {
namespace {

thread_local std::unique_ptr<LaunchGraph> current;

std::mutex graphs_mutex;
std::map<int64_t, std::shared_ptr<const LaunchGraph>> graphs;  // by handle; shared: one may be freed while it runs
int64_t next_handle = 1;

void graph_begin() {
  check(current == nullptr, "graph_begin: this thread is recording already");
  current = std::make_unique<LaunchGraph>();
}

int64_t graph_end() {
  check(current != nullptr, "graph_end: this thread is not recording");
  std::lock_guard<std::mutex> lock(graphs_mutex);
  graphs[next_handle] = std::shared_ptr<const LaunchGraph>(std::move(current));
  return next_handle++;
}

int64_t graph_size(int64_t handle) {
  std::lock_guard<std::mutex> lock(graphs_mutex);
  check(graphs.count(handle) != 0, "graph_size: no such graph");
  return static_cast<int64_t>(graphs[handle]->size());
}

void graph_replay(int64_t handle) {
  std::shared_ptr<const LaunchGraph> graph;
  {
    std::lock_guard<std::mutex> lock(graphs_mutex);
    const auto found = graphs.find(handle);
    check(found != graphs.end(), "graph_replay: no such graph");
    graph = found->second;
  }
  for (const auto& launch : *graph) launch();
}

void graph_free(int64_t handle) {
  std::lock_guard<std::mutex> lock(graphs_mutex);
  graphs.erase(handle);
}

}  // namespace

LaunchGraph* recording() { return current.get(); }

void bind_graph(pybind11::module_& m) {
  m.def("graph_begin", graph_begin);
  m.def("graph_end", graph_end);
  m.def("graph_size", graph_size);
  m.def("graph_replay", graph_replay, ReleaseGil());
  m.def("graph_free", graph_free);
}

}  // namespace pspec::api
