// Huge pages by madvise, on Linux.
#include "huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pspec::cpu {

int64_t use_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (begin < end && madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE) == 0) {
    return static_cast<int64_t>(end - begin);
  }
#else
  (void)data, (void)bytes;
#endif
  return 0;
}

}  // namespace pspec::cpu
