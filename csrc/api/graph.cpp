// Bindings of launch graphs: begin, end, replay, profile, free.
#include "graph.h"

#include <pybind11/stl.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

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

std::shared_ptr<const LaunchGraph> find(int64_t handle) {
  std::lock_guard<std::mutex> lock(graphs_mutex);
  const auto found = graphs.find(handle);
  check(found != graphs.end(), "no such graph");
  return found->second;
}

int64_t graph_size(int64_t handle) { return static_cast<int64_t>(find(handle)->size()); }

void graph_replay(int64_t handle) {
  const auto graph = find(handle);
  for (const Launch& launch : *graph) launch.run();
}

// Replays and times each launch: [(op, seconds)] in order.
std::vector<std::pair<std::string, double>> graph_profile(int64_t handle) {
  const auto graph = find(handle);
  std::vector<std::pair<std::string, double>> times;
  times.reserve(graph->size());
  auto before = std::chrono::steady_clock::now();
  for (const Launch& launch : *graph) {
    launch.run();
    const auto after = std::chrono::steady_clock::now();
    times.emplace_back(launch.op, std::chrono::duration<double>(after - before).count());
    before = after;
  }
  return times;
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
  m.def("graph_profile", graph_profile, ReleaseGil());
  m.def("graph_free", graph_free);
}

}  // namespace pspec::api
