"""Section a: the tests marked `gpu`, by pytest in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .run import ROOT, Job

MOST_WORKERS = 12  # compiling is most of the time
# What only a GPU can show comes first, in case the time does not suffice.
SELECTION = ("tests/gpu", "tests/triton", "tests/ops", "tests")
STOP_S = 15.0  # for pytest to write what it found after it was interrupted


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report; RuntimeError if a test failed, or none ran."""
    junit = job.out / "tests.xml"
    junit.unlink(missing_ok=True)
    options = ["-q", "-m", "gpu and not full", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    if importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS))]
    ended = finish([sys.executable, "-m", "pytest", *options, *SELECTION], job.time_left() - STOP_S)
    lines = results(junit)
    counts = {outcome: sum(line["outcome"] == outcome for line in lines) for outcome in ("passed", "failed", "skipped")}
    report["lines"] = lines
    report["summary"] = [", ".join(f"{count} {outcome}" for outcome, count in counts.items())]
    failed = [line["test"] for line in lines if line["outcome"] == "failed"]
    if failed or not counts["passed"]:
        raise RuntimeError(f"{len(failed)} failed, the first: {failed[0]}" if failed else "no test ran")
    if not ended:
        raise RuntimeError("the time did not suffice for all tests; those that ran passed")


def finish(command: Sequence[str], seconds: float) -> bool:
    """Run pytest; interrupt it when the time is up, so that it still writes its results. Whether it ended by itself."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        process.wait(max(seconds, 1))
        return True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    return False


def results(junit: Path) -> list[dict[str, Any]]:
    """[{test, outcome, seconds, message}] of a JUnit file, [] where there is none."""
    if not junit.exists():
        return []
    found = []
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        problem = next((node for node in case if node.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if problem is None else "skipped" if problem.tag == "skipped" else "failed"
        message = None if problem is None else (problem.get("message") or "")[:500]
        test = f"{case.get('classname')}::{case.get('name')}"
        found.append({"test": test, "outcome": outcome, "seconds": float(case.get("time", 0)), "message": message})
    return found
