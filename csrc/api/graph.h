// Launch graphs: what a round launches, recorded once and replayed in one call from Python.
//
// Every launch of a round has the same arguments each time (lengths and the like are read through pointers), as a
// captured CUDA graph demands. So on a CPU, too, a recorded sequence can be run again without Python in between.
#pragma once

#include <functional>
#include <vector>

namespace pspec::api {

struct Launch {
  const char* op;
  std::function<void()> run;
};
using LaunchGraph = std::vector<Launch>;

// The graph the calling thread is recording into, or null.
LaunchGraph* recording();

// Runs a kernel, and notes the launch if the thread is recording.
template <typename Params>
void launch(const char* op, void (*kernel)(const Params&), const Params& params) {
  if (LaunchGraph* graph = recording()) graph->push_back({op, [kernel, params] { kernel(params); }});
  kernel(params);
}

}  // namespace pspec::api
