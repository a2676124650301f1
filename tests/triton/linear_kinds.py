"""Prints, for weights of `linear`, what decides the order of a sum, of all row buckets together: MMAs and k layouts.

`python -m tests.triton.linear_kinds ARCH [all]`, a JSON line per weight. The part of an instruction that says how many
tokens it takes at once is replaced by N. The layouts of operands say which columns an MMA takes (`kWidth`).
"""

from __future__ import annotations

import json
import re
import sys

from pspec_rt.triton_kernels import _linear_tiles as tiles
from pspec_rt.triton_kernels._aot import compile_kernel, sass
from pspec_rt.triton_kernels.linear import BLOCK_PLAN, NORM_COLUMNS, specialization

FEW = ((4096, 4096),)
ALL = (*FEW, (6144, 4096), (4096, 14336), (28672, 4096), (128256, 4096), (2048, 2048), (576, 1536), (64, 64))


def kinds(N: int, K: int, arch: int, plan: tiles.Plan, *, fused: bool) -> dict[str, list[str]]:
    """Of a plain product in every bucket, and of those that do more, if asked for."""
    cases = [(bucket, {}) for bucket in tiles.BUCKETS]
    if fused:
        cases += [(bucket, {"gated": True}) for bucket in tiles.BUCKETS]
        cases += [(16, {"norm": True})] if K <= NORM_COLUMNS else []
    mmas, layouts = set(), set()
    for bucket, options in cases:
        compiled = compile_kernel(specialization(N, K, bucket, arch, plan=plan, **options), arch)
        mmas |= set(re.findall(r"\b(?:HMMA|HGMMA|UTCHMMA)[.\w]*", sass(compiled.asm["cubin"])))
        layouts |= set(re.findall(r"kWidth = \d+", compiled.asm["ttgir"]))
    return {"mmas": sorted({re.sub(r"^(HGMMA\.\d+)x\d+x", r"\1xNx", mma) for mma in mmas}), "layouts": sorted(layouts)}


def main(arch: int, every: bool) -> None:
    for N, K in ALL if every else FEW:
        for plan in (tiles.plan_of(N, K, False, arch), BLOCK_PLAN):
            found = kinds(N, K, arch, plan, fused=every)
            print(json.dumps({"N": N, "K": K, "unit": plan.order.unit, **found}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), "all" in sys.argv)
