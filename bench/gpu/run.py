"""All sections in one run, each in a process of its own, so that one that fails or hangs does not stop the others.

    python -m bench.gpu --out DIR [--only SECTION,...] [--target DIR]

Sections: tests (a), memory (b), tune (d), kernels (c), matrix (g), rounds (e), loops (f), commit (h), in this order:
what is tuned is what is measured.
Each writes DIR/SECTION.json with the conditions it ran under. Needs a GPU, no network, and less than nine minutes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = 520.0  # of the whole run, building included
SPARE_S = 8.0  # a section gets this long to end by itself before it is stopped
# Section -> most seconds, more where it runs without the others. It starts nothing new when its time is up.
SECTIONS = {
    "tests": 112.0,
    "memory": 20.0,
    "tune": 90.0,
    "kernels": 95.0,
    "matrix": 50.0,
    "rounds": 75.0,
    "loops": 85.0,
    "commit": 12.0,
}
LETTERS = {
    "a": "tests",
    "b": "memory",
    "c": "kernels",
    "d": "tune",
    "e": "rounds",
    "f": "loops",
    "g": "matrix",
    "h": "commit",
}


@dataclass(frozen=True)
class Job:
    """What a section is told.

    Attributes:
        out: folder for its files.
        device: "cuda", or "cpu" where its logic is tested.
        end: `time.monotonic()` at which it should be done.
        small: tiny shapes, for tests.
        target: a checkpoint whose own text the loops decode, too.
    """

    out: Path
    device: str
    end: float
    small: bool = False
    target: Path | None = None

    def time_left(self) -> float:
        return self.end - time.monotonic()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the JSON files")
    parser.add_argument("--only", metavar="SECTION,...", help=f"of {', '.join(SECTIONS)}; or their letters a to h")
    parser.add_argument("--commit", help="what is measured, where there is no git checkout to ask")
    parser.add_argument("--target", type=Path, metavar="DIR", help="checkpoint that section loops decodes with, too")
    parser.add_argument("--inside", type=float, metavar="SECONDS", help=argparse.SUPPRESS)  # the process of a section
    args = parser.parse_args(argv)
    names = chosen(args.only)
    if reason := no_gpu():
        raise SystemExit(f"bench.gpu: {reason}")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.inside is not None:
        section(names[0], Job(args.out, "cuda", time.monotonic() + args.inside, target=args.target))
        return
    sys.exit(run_all(names, args.out, args.commit, args.target))


def chosen(only: str | None) -> list[str]:
    """Sections to run, in the order they run in; SystemExit for an unknown name."""
    wanted = {LETTERS.get(name.strip(), name.strip()) for name in only.split(",")} if only else set(SECTIONS)
    if unknown := wanted - set(SECTIONS):
        raise SystemExit(f"bench.gpu: no section {sorted(unknown)[0]!r}: choose from {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in wanted]


def no_gpu() -> str | None:
    """Why nothing can be measured here, None if it can."""
    import torch

    if torch.version.cuda is None:
        return f"no CUDA device: this PyTorch ({torch.__version__}) is a CPU build"
    if not torch.cuda.is_available():
        return "no CUDA device: PyTorch sees none (is there an NVIDIA driver, is CUDA_VISIBLE_DEVICES empty?)"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    return None


def run_all(names: Sequence[str], out: Path, commit: str | None, target: Path | None = None) -> int:
    """Build, run the sections, print the table; the number of sections that failed."""
    start = time.monotonic()
    reports = [build(out)]
    conditions = conditions_of_gpu(commit)
    stretch = max(1.0, (BUDGET_S - (time.monotonic() - start)) / sum(SECTIONS[name] for name in names))
    for name in names:
        left = BUDGET_S - (time.monotonic() - start) - SPARE_S
        report = (
            run_section(name, out, min(SECTIONS[name] * stretch, left), target) if left > SPARE_S else skipped(name)
        )
        (out / f"{name}.json").write_text(json.dumps({"conditions": conditions, **report}, indent=1) + "\n")
        reports.append(report)
        print(f"-- {name}: {report['status']} in {report['seconds']:.0f} s", flush=True)
    print_table(reports, conditions, time.monotonic() - start)
    return sum(report["status"] == "failed" for report in reports[1:])


def build(out: Path) -> dict[str, Any]:
    """Install the package from this checkout where it is not: pspec_rt.triton_kernels is mapped by the installation."""
    report: dict[str, Any] = {"section": "build", "status": "done", "seconds": 0.0, "summary": ["already installed"]}
    if all(importlib.util.find_spec(f"pspec_rt.{name}") is not None for name in ("_C", "triton_kernels")):
        return report
    start = time.monotonic()
    flags = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "-e", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    (out / "build.log").write_text(done.stdout + done.stderr)
    report |= {"seconds": time.monotonic() - start, "summary": ["pip install -e .; see build.log"]}
    return report | {"status": "done" if done.returncode == 0 else "failed"}


def run_section(name: str, out: Path, seconds: float, target: Path | None = None) -> dict[str, Any]:
    """A section in a process of its own: what it reported, or how it ended."""
    result = out / f"{name}.part.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.gpu", "--out", str(out), "--only", name, "--inside", str(seconds)]
    command += ["--target", str(target)] if target else []
    start = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, check=False, cwd=ROOT, timeout=seconds + SPARE_S
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    report: dict[str, Any] = {"section": name, "status": "failed", "summary": [], "lines": []}
    if result.exists():
        report |= json.loads(result.read_text())
        result.unlink()
    if code != 0:
        how = f"stopped after {seconds + SPARE_S:.0f} s" if code == -1 else f"exit status {code}"
        report |= {"status": "failed", "error": report.get("error") or f"{how}; see {name}.log"}
    return report | {"seconds": time.monotonic() - start}


def skipped(name: str) -> dict[str, Any]:
    """The report of a section there was no time for."""
    return {"section": name, "status": "failed", "seconds": 0.0, "summary": [], "error": "no time left", "lines": []}


def section(name: str, job: Job) -> None:
    """Run a section here and write what it found, also when it fails half-way."""
    report: dict[str, Any] = {"section": name, "status": "done", "summary": [], "lines": []}
    part = job.out / f"{name}.part.json"
    try:
        importlib.import_module(f"bench.gpu.{name}").run(job, report)
    except Exception as error:
        traceback.print_exc()
        report |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
    part.write_text(json.dumps(report, indent=1))


def conditions_of_gpu(commit: str | None) -> dict[str, Any]:
    """Device, driver, versions, commit, date."""
    import torch

    from pspec_rt.measure.meta import conditions

    properties = torch.cuda.get_device_properties(0)
    found = conditions()
    return found | {
        "commit": commit or found["commit"],
        "device": properties.name,
        "capability": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "device_memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "driver": nvidia_smi("driver_version"),
        "clocks": nvidia_smi("clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem"),
        "cuda": torch.version.cuda,
    }


def nvidia_smi(fields: str) -> str | None:
    """What nvidia-smi says of the first GPU, None without it."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def print_table(reports: Sequence[dict[str, Any]], conditions: dict[str, Any], seconds: float) -> None:
    """What was found, in a few lines a section."""
    versions = conditions["versions"]
    print(f"\n{conditions['device']}, driver {conditions['driver']}, commit {conditions['commit']}")
    print(
        f"torch {versions['torch']}, triton {versions['triton']}, Python {versions['python']}, {seconds:.0f} s in all\n"
    )
    for report in reports:
        print(f"{report['section']:8} {report['status']:7} {report['seconds']:5.0f} s  {report.get('error', '')}")
        for line in report["summary"]:
            print(f"{'':25}{line}")
