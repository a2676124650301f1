"""Builds the package; the native module is built by CMake, and left out where there is no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_tool(*names: str) -> str | None:
    """Path of the first of these programs; those of this Python's own environment come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


class CMakeBuild(build_ext):
    """Builds pspec_rt._C into build/cmake-<abi>, where a second build is incremental."""

    def run(self) -> None:
        missing = self._missing_tools()
        if missing:
            print(
                f"pspec_rt: {' and '.join(missing)} not found, installing without the native module "
                "(everything works, CPU decoding is slower). Install them and reinstall to get it.",
                file=sys.stderr,
            )
            self.extensions: list[Extension] = []  # nothing to copy, no output to list
            return
        target = ROOT / "pspec_rt" if self._in_place() else Path(self.build_lib) / "pspec_rt"
        self._build(target.resolve())

    def get_outputs(self) -> list[str]:
        return [] if self._in_place() else super().get_outputs()

    def get_output_mapping(self) -> dict[str, str]:
        return {}  # an editable install imports the module from the source tree

    def _in_place(self) -> bool:
        return bool(self.inplace or self.editable_mode)

    def _missing_tools(self) -> list[str]:
        compiler = find_tool(*filter(None, [os.environ.get("CXX")]), "c++", "g++", "clang++")
        return [name for name, path in [("a C++ compiler", compiler), ("cmake", find_tool("cmake"))] if not path]

    def _build(self, target: Path) -> None:
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        assert cmake is not None, "run() checks that the tools are there"
        build = ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI')}"
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        configure = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPSPEC_VERSION={self.distribution.get_version()}",
        ]
        subprocess.run([cmake, "-S", ROOT, "-B", build, *generator, *configure], check=True)
        subprocess.run([cmake, "--build", build, "--parallel"], check=True)
        subprocess.run([cmake, "--install", build, "--prefix", target], check=True)


setup(
    # triton_kernels/ is installed as pspec_rt.triton_kernels: the bare name is another published package's.
    packages=[*find_packages(include=["pspec_rt", "pspec_rt.*"]), "pspec_rt.triton_kernels"],
    package_dir={"pspec_rt.triton_kernels": "triton_kernels"},
    package_data={"pspec_rt": ["py.typed", "*.pyi", "zoo/**/*"], "pspec_rt.triton_kernels": ["*.json"]},
    ext_modules=[Extension("pspec_rt._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
