"""Compiles the kernels' SPECIALIZATIONS without a GPU and reads what the machine code needs: shared by tests and bench.

`python -m pspec_rt.triton_kernels._aot --arch 90 --json OUT [--op linear] [--all]`
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .. import triton_kernels
from ._common import SHARED_LIMIT, Specialization, interpreting

ARCHITECTURES = (80, 90, 100)
# Far below 255 registers the assembler of Triton 3.6 spills two words here and there, so that one more block fits.
TRADED = 8 if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7) else 0
MOST_REGISTERS = 255
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What one specialisation became on one architecture.

    `local` counts instructions on local memory (spills), `mma` names the tensor core instructions, `fma` counts the
    fused multiply-adds of fp32 in the PTX (those of bf16 stand for a sum or a product of two bf16, rounded once).
    `error` is the compiler's message, and the rest is empty then.
    """

    op: str
    kernel: str
    name: str
    arch: int
    error: str = ""
    shared: int = 0
    registers: int = 0
    stack: int = 0
    local: int = 0
    fma: int = 0
    mma: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """What the house does not accept, in words."""
        found = [self.error] if self.error else []
        if self.stack > (TRADED if self.registers < MOST_REGISTERS else 0):
            found.append(f"spills: {self.stack} bytes of stack, {self.local} local loads and stores")
        if self.shared > SHARED_LIMIT[self.arch]:
            found.append(f"{self.shared} bytes of shared memory, {SHARED_LIMIT[self.arch]} at most")
        return [f"{self.op}: {self.kernel}[{self.name}] on sm_{self.arch}: {fault}" for fault in found]


def ops() -> list[str]:
    """Every op with a Triton kernel."""
    return sorted(m.name for m in pkgutil.iter_modules(triton_kernels.__path__) if not m.name.startswith("_"))


def specializations(op: str, arch: int, *, every: bool) -> Iterator[Specialization]:
    """Those of an op that exist on an architecture; unless `every`, the first of each kernel."""
    seen: set[str] = set()
    for spec in importlib.import_module(f"{triton_kernels.__name__}.{op}").SPECIALIZATIONS:
        if spec.min_arch <= arch and (every or spec.kernel.__name__ not in seen):
            seen.add(spec.kernel.__name__)
            yield spec


def compile_kernel(spec: Specialization, arch: int) -> Any:
    """Triton's compiled kernel, `.asm` and `.metadata`."""
    assert not interpreting(), "TRITON_INTERPRET is set: there is nothing to compile"
    names = spec.kernel.arg_names
    given = {*spec.signature, *spec.constexprs}
    assert set(names) == given, f"{spec.kernel.__name__}: signature and constexprs differ in {set(names) ^ given}"
    signature = {name: "constexpr" if name in spec.constexprs else spec.signature[name] for name in names}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in spec.divisible}
    source = ASTSource(spec.kernel, signature, dict(spec.constexprs), attributes)
    options = {
        "num_warps": spec.num_warps,
        "num_stages": spec.num_stages,
        "enable_fp_fusion": spec.fp_fusion,
        "launch_pdl": bool(spec.constexprs.get("PDL")),
    }
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def sass(cubin: bytes) -> str:
    """Resource usage and disassembly of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        dump = [TOOLS / "cuobjdump", "-res-usage", "-sass", file.name]
        return subprocess.run(dump, check=True, capture_output=True, text=True).stdout


def _reason(error: BaseException) -> str:
    """An error with its causes: the compiler's own names a line, and its cause says what is wrong with that."""
    own = f"{type(error).__name__}: {error}"
    return own if error.__cause__ is None else f"{own}\n{_reason(error.__cause__)}"


def examine(op: str, spec: Specialization, arch: int) -> Compiled:
    """Compile one specialisation and read its machine code; a compiler error is part of the answer."""
    result = Compiled(op, spec.kernel.__name__, spec.name, arch)
    try:
        compiled = compile_kernel(spec, arch)
    except Exception as error:  # the compiler's own classes, RuntimeError of ptxas, ..
        return dataclasses.replace(result, error=_reason(error))
    text = sass(compiled.asm["cubin"])
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    return dataclasses.replace(
        result,
        shared=compiled.metadata.shared,
        registers=int(usage["REG"]),
        stack=int(usage["STACK"]) + int(usage["LOCAL"]),
        local=len(re.findall(r"\b(?:LDL|STL)\b", text)),
        fma=len(re.findall(r"\bfma\.rn(?:\.ftz)?\.f32\b", compiled.asm["ptx"])),
        mma=tuple(sorted(set(re.findall(r"\b(?:HMMA|HGMMA|UTCHMMA)[.\w]*", text)))),
    )


def examine_all(arches: Sequence[int], names: Sequence[str], *, every: bool) -> list[Compiled]:
    """Compile the specialisations of some ops for some architectures, one after another."""
    return [
        examine(op, spec, arch) for arch in arches for op in names for spec in specializations(op, arch, every=every)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m pspec_rt.triton_kernels._aot`."""
    parser = argparse.ArgumentParser(prog="_aot", description="Compile the Triton kernels without a GPU.")
    parser.add_argument("--arch", type=int, nargs="*", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--op", nargs="*", default=None, help="ops to compile (all of them)")
    parser.add_argument("--all", action="store_true", help="every specialisation, not the first of each kernel")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    results = examine_all(options.arch, options.op or ops(), every=options.all)
    options.json.write_text(json.dumps([dataclasses.asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
