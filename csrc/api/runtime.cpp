// Bindings of the settings of the native module: threads, instruction set, how it was built.
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "../cpu/huge_pages.h"
#include "../cpu/isa/kernels.h"
#include "../cpu/read_sum.h"
#include "../cpu/thread_pool.h"
#include "api.h"

namespace py = pybind11;

namespace pspec::api {
namespace {

std::vector<std::string> isas() {
  const char* names[kMaxIsas];
  const int count = usable_isas(names);
  return {names, names + count};
}

void choose_isa(const std::string& name) {
  if (set_isa(name.c_str())) return;
  std::string usable;
  for (const std::string& isa : isas()) usable += " " + isa;
  throw std::invalid_argument("PSPEC_CPU_ISA: no kernels for '" + name + "' on this CPU; usable:" + usable);
}

void choose_threads(int n) {
  check(n >= 1, "set_num_threads: expected at least 1");
  set_num_threads(n);
}

int64_t use_huge_pages(Address data, int64_t bytes) { return cpu::use_huge_pages(pointer<void>(data), bytes); }

std::pair<uint64_t, double> read_sum(Address data, int64_t bytes) {
  const cpu::ReadSum read = cpu::read_sum(pointer<void>(data), bytes);
  return {read.sum, read.seconds};
}

py::dict build_info() {
  py::dict info;
  info["version"] = PSPEC_VERSION;
  info["compiler"] = PSPEC_COMPILER;
  info["isa"] = isa_name();
  info["isas"] = isas();
  info["cuda"] = PSPEC_WITH_CUDA != 0;
  info["threads"] = num_threads();
  return info;
}

}  // namespace

void bind_runtime(py::module_& m) {
  m.def("set_num_threads", choose_threads, ReleaseGil());
  m.def("num_threads", num_threads);
  m.def("set_isa", choose_isa);
  m.def("use_huge_pages", use_huge_pages);
  m.def("read_sum", read_sum, ReleaseGil());
  m.def("build_info", build_info);
}

}  // namespace pspec::api
