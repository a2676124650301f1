// Chooses at run time which instruction set's kernels are used.
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace pspec {

#if defined(PSPEC_AMX)
namespace amx { extern const Kernels kKernels; }
#endif
#if defined(PSPEC_AVX512BF16)
namespace avx512bf16 { extern const Kernels kKernels; }
#endif
#if defined(PSPEC_X86)
namespace avx512 { extern const Kernels kKernels; }
namespace avx2 { extern const Kernels kKernels; }
#endif
namespace portable { extern const Kernels kKernels; }

namespace {

// Best first.
const Kernels* const kTables[] = {
#if defined(PSPEC_AMX)
    &amx::kKernels,
#endif
#if defined(PSPEC_AVX512BF16)
    &avx512bf16::kKernels,
#endif
#if defined(PSPEC_X86)
    &avx512::kKernels,
    &avx2::kKernels,
#endif
    &portable::kKernels,
};

const Kernels* find(const char* name) {
  for (const Kernels* table : kTables) {
    const bool wanted = name[0] == '\0' || std::strcmp(name, table->name) == 0;
    if (wanted && table->supported()) return table;
  }
  return nullptr;
}

std::atomic<const Kernels*> active{nullptr};

}  // namespace

bool set_isa(const char* name) {
  const Kernels* table = find(name);
  if (table != nullptr) active = table;
  return table != nullptr;
}

const Kernels& kernels() {
  if (active.load() == nullptr) set_isa("");
  return *active;
}

const char* isa_name() { return kernels().name; }

int usable_isas(const char** names) {
  int count = 0;
  for (const Kernels* table : kTables) {
    if (table->supported()) names[count++] = table->name;
  }
  return count;
}

}  // namespace pspec
