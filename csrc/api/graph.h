// Launch graphs: what a round launches, recorded once and replayed in one call from Python.
//
// Every launch of a round has the same arguments each time (lengths and the like are read through pointers), as a
// captured CUDA graph demands. So on a CPU, too, a sequence can be captured and run without Python in between. As
// there, launches do not run while they are recorded.
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

// Runs a kernel, or notes the launch if the thread is recording.
template <typename Params>
void launch(const char* op, void (*kernel)(const Params&), const Params& params) {
  if (LaunchGraph* graph = recording()) {
    graph->push_back({op, [kernel, params] { kernel(params); }});
  } else {
    kernel(params);
  }
}

}  // namespace pspec::api
