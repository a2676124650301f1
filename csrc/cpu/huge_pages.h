// Asks the system to back memory with huge pages.
#pragma once

#include <cstdint>

namespace pspec::cpu {

// Streaming weights touches every 4 KiB page once per round, and the page walks cost half the bandwidth; with 2 MiB
// pages there are hardly any. Call it on a large buffer before it is filled. Only a hint: returns the number of bytes
// it covers (whole huge pages inside the range; 0 where the system has no such thing) and changes no content.
int64_t use_huge_pages(void* data, int64_t bytes);

}  // namespace pspec::cpu
