"""The CPU kernels cross-built for arm64 with the flags CMake gives them, and run there by emulation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from .ops.cases import ref_of, same_bits

ROOT = Path(__file__).resolve().parents[1]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
COMPILER, CMAKE, NINJA = (shutil.which(name, path=PATH) for name in ("aarch64-linux-gnu-g++", "cmake", "ninja"))
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not (COMPILER and CMAKE and NINJA), reason="needs aarch64-linux-gnu-g++, cmake and ninja"),
]

B, P, V = 2, 3, 1003
R, I, O = 9, 70, 41
# Reads seeds, positions, x and w; writes the noise and x @ w.T.
PROGRAM = f"""
#include <cstdio>
#include "{ROOT}/csrc/cpu/launch.h"
int64_t seed[{B}];
int32_t position[{B}];
uint16_t x[{R * I}], w[{O * I}];
float noise[{B * P * V}], out[{R * O}];
template <typename T> bool get(T& array) {{ return fread(&array, sizeof array, 1, stdin) == 1; }}
template <typename T> bool put(T& array) {{ return fwrite(&array, sizeof array, 1, stdout) == 1; }}
int main() {{
  using namespace pspec;
  if (!get(seed) || !get(position) || !get(x) || !get(w)) return 1;
  cpu::gumbel_noise({{seed, position, noise, {B}, {P}, {V}}});
  LinearParams p = {{}};
  p.x = x, p.w = w, p.out = out, p.R = {R}, p.I = {I}, p.O = {O};
  p.x_dtype = p.w_dtype = DType::kBFloat16, p.out_dtype = DType::kFloat32;
  cpu::linear(p);
  return put(noise) && put(out) ? 0 : 2;
}}
"""


def run(*command: object, **options: object) -> bytes:
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout.decode()[-2000:]}{done.stderr.decode()[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Object files of everything in csrc/cpu; csrc/api would need the headers of an arm64 Python."""
    build = tmp_path_factory.mktemp("arm64")
    target = {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64", "CMAKE_CXX_COMPILER": COMPILER}
    settings = {
        **target,
        "CMAKE_MAKE_PROGRAM": NINJA,
        "CMAKE_CXX_FLAGS": "-Werror",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "CMAKE_CUDA_COMPILER": "",
        "Python_EXECUTABLE": sys.executable,
    }
    notes = run(CMAKE, "-S", ROOT, "-B", build, "-G", "Ninja", *(f"-D{k}={v}" for k, v in settings.items()))
    assert b"CPU kernels for portable;" in notes, "no instruction set of x86"
    commands = json.loads((build / "compile_commands.json").read_text())
    wanted = [c for c in commands if Path(c["file"]).is_relative_to(ROOT / "csrc" / "cpu")]
    for command in wanted:
        (build / command["output"]).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda c: run("sh", "-c", c["command"], cwd=c["directory"]), wanted))
    return [build / command["output"] for command in wanted]


def test_kernels_build_for_arm64(objects: list[Path]) -> None:
    machine_aarch64, offset = 183, 18  # e_machine of the ELF header
    assert objects and all(path.read_bytes()[offset] == machine_aarch64 for path in objects)


@pytest.mark.skipif(not EMULATOR, reason="needs qemu-aarch64")
def test_kernels_on_arm64(objects: list[Path], tmp_path: Path) -> None:
    """The noise has the bits of torch (no multiply-add is fused), and linear is right."""
    main, program = tmp_path / "main.cpp", tmp_path / "main"
    main.write_text(PROGRAM)
    run(COMPILER, "-std=c++17", "-static", "-pthread", main, *objects, "-o", program)
    seed_B, position_B = torch.tensor([-7, 2**40 + 3]), torch.tensor([0, 2**31 - 9], dtype=torch.int32)
    x_RI, w_OI = torch.randn(R, I).bfloat16(), torch.randn(O, I).bfloat16()
    inputs = [t.view(torch.uint8).numpy().tobytes() for t in (seed_B, position_B, x_RI, w_OI)]
    output = torch.frombuffer(bytearray(run(EMULATOR, program, input=b"".join(inputs))), dtype=torch.float32)
    noise_BPV, out_RO = output[: B * P * V].view(B, P, V), output[B * P * V :].view(R, O)

    expected_BPV = torch.empty(B, P, V)
    ref_of("gumbel_noise")(seed_B, position_B, expected_BPV)
    assert same_bits(noise_BPV, expected_BPV)
    scale_RO = x_RI.double().abs() @ w_OI.double().abs().T
    assert ((out_RO - x_RI.double() @ w_OI.double().T).abs() <= (I + 1) * 2.0**-24 * scale_RO).all()
