"""Section a: the tests marked `gpu`, by pytest in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .run import ROOT, Job

WORKERS = 6  # compiling is most of the time


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report; RuntimeError if a test failed, or none ran."""
    junit = job.out / "tests.xml"
    junit.unlink(missing_ok=True)
    options = ["-q", "-m", "gpu and not full", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    if importlib.util.find_spec("xdist") is not None:
        options += ["-n", str(WORKERS)]
    selection = ["tests/test_house.py"] if job.small else ["tests"]
    command = [sys.executable, "-m", "pytest", *options, *selection]
    try:
        subprocess.run(command, cwd=ROOT, check=False, timeout=max(job.time_left(), 1))
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the tests took longer than {error.timeout:.0f} s") from error
    lines = results(junit)
    counts = {outcome: sum(line["outcome"] == outcome for line in lines) for outcome in ("passed", "failed", "skipped")}
    report["lines"] = lines
    report["summary"] = [", ".join(f"{count} {outcome}" for outcome, count in counts.items())]
    failed = [line["test"] for line in lines if line["outcome"] == "failed"]
    if failed or not counts["passed"]:
        raise RuntimeError(f"{len(failed)} failed, the first: {failed[0]}" if failed else "no test ran")


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
