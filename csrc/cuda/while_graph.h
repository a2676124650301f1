// A graph that runs a captured round again and again, without the host, until the round's own kernel says stop.
#pragma once

#include <cstdint>

namespace pspec::cuda {

// A root graph with one conditional WHILE node whose body is a copy of `round` (a cudaGraph_t that torch captured).
// Returns a handle for the functions below; throws std::runtime_error with CUDA's own text.
uint64_t while_create(uint64_t round);

// Launches it on a stream. The round's publishing kernel ends the loop through the condition whose handle is written to
// words 2 and 3 of `control` (int32[8] on the device; see common/ring.h) ahead of the launch.
void while_launch(uint64_t handle, int32_t* control, void* stream);

void while_destroy(uint64_t handle);

}  // namespace pspec::cuda
