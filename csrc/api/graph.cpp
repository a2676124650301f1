// Bindings of launch graphs: begin, end, replay, burst, profile, free.
#include "graph.h"

#include <pybind11/stl.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "../cuda/while_graph.h"
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

// Replays while *go, which the round itself writes, is not 0; at least once. Returns how many times. An interrupt
// (Ctrl-C) is raised between two rounds, so that none is left half done.
int64_t graph_burst(int64_t handle, Address go) {
  const auto graph = find(handle);
  const int32_t* again = pointer<const int32_t>(go);
  int64_t rounds = 0;
  do {
    for (const Launch& launch : *graph) launch.run();
    ++rounds;
    const pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
  } while (*again != 0);
  return rounds;
}

struct ClockParams {
  double* seconds;
};

void read_clock(const ClockParams& p) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  *p.seconds = std::chrono::duration<double>(now).count();
}

// Writes the time, in seconds, when the launch runs: between recorded launches it times the phases of a round.
void clock(Address seconds) { launch("clock", read_clock, ClockParams{pointer<double>(seconds)}); }

void graph_free(int64_t handle) {
  std::lock_guard<std::mutex> lock(graphs_mutex);
  graphs.erase(handle);
}

#if PSPEC_WITH_CUDA
void while_launch(uint64_t handle, Address control, Address stream) {
  cuda::while_launch(handle, pointer<int32_t>(control), pointer<void>(stream));
}
#endif

}  // namespace

LaunchGraph* recording() { return current.get(); }

void bind_graph(pybind11::module_& m) {
  m.def("graph_recording", [] { return recording() != nullptr; });
  m.def("graph_begin", graph_begin);
  m.def("graph_end", graph_end);
  m.def("graph_size", graph_size);
  m.def("graph_replay", graph_replay, ReleaseGil());
  m.def("graph_burst", graph_burst, ReleaseGil());
  m.def("graph_profile", graph_profile, ReleaseGil());
  m.def("clock", clock);
  m.def("graph_free", graph_free);
#if PSPEC_WITH_CUDA
  m.def("cuda_while_create", cuda::while_create);
  m.def("cuda_while_launch", while_launch, ReleaseGil());
  m.def("cuda_while_destroy", cuda::while_destroy);
#endif
}

}  // namespace pspec::api
