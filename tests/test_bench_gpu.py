"""bench.gpu where there is no GPU: what it says then, its bookkeeping, and the logic of its sections on tiny shapes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu import run
from pspec_rt.drafters.checkpoint import init_drafter
from pspec_rt.engine import Engine
from pspec_rt.state import IDLE

pytest.importorskip("triton")


def job(tmp_path: Path) -> run.Job:
    return run.Job(tmp_path, "cpu", time.monotonic() + 1000, small=True)


def report() -> dict:
    return {"summary": [], "lines": []}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=run.ROOT, check=False)
    assert done.returncode == 1 and done.stderr.startswith("bench.gpu: no CUDA device")
    assert not (tmp_path / "out").exists()


def test_sections_by_name_and_letter() -> None:
    assert run.chosen(None) == list(run.SECTIONS)
    assert run.chosen("e,memory") == ["memory", "rounds"]
    with pytest.raises(SystemExit, match="no section 'speed'"):
        run.chosen("speed")
    assert sum(run.SECTIONS.values()) < 540


def test_a_section_that_fails_reports_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.gpu import memory

    def half(job: run.Job, report: dict) -> None:
        report["lines"].append({"copy_gb_per_s": 1.0})
        raise RuntimeError("no more")

    monkeypatch.setattr(memory, "run", half)
    run.section("memory", job(tmp_path))
    found = json.loads((tmp_path / "memory.part.json").read_text())
    assert (found["status"], found["error"]) == ("failed", "RuntimeError: no more")
    assert found["lines"] == [{"copy_gb_per_s": 1.0}]


def test_results_of_the_tests(tmp_path: Path) -> None:
    from bench.gpu.tests import results

    junit = tmp_path / "tests.xml"
    assert results(junit) == []
    junit.write_text(
        '<testsuites><testsuite><testcase classname="a" name="x" time="1"/><testcase classname="a" name="y" time="2">'
        '<failure message="3 != 4"/></testcase><testcase classname="a" name="z"><skipped message="m"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert [line["outcome"] for line in results(junit)] == ["passed", "failed", "skipped"]
    assert results(junit)[1] == {"test": "a::y", "outcome": "failed", "seconds": 2.0, "message": "3 != 4"}


@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("name", ["memory", "tune", "rounds"])
def test_section(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter: the numbers mean nothing, but all that computes them ran."""
    module = pytest.importorskip(f"bench.gpu.{name}")
    found = report()
    if name == "tune":
        monkeypatch.setattr(module, "STAGES", (3,))
        monkeypatch.setattr(module, "ROW_TILES", (64,))
    module.run(job(tmp_path), found)
    assert found["lines"] and found["summary"]
    assert not [line["error"] for line in found["lines"] if "error" in line]
    json.dumps(found)
    if name == "tune":
        entry = json.loads((tmp_path / "linear_tiles.json").read_text())["sm_90"]["96x64"]
        assert set(entry["tiles"]) == {"16", "32", "64"}


@pytest.mark.usefixtures("triton_device")
def test_a_line_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.gpu import kernels
    from bench.gpu.shapes import TINY

    monkeypatch.setattr(kernels, "PREFIXES", (16,))
    cases = dict(kernels.all_cases((TINY,), (1,)))
    assert set(cases) == set(kernels.kernels()) and list(cases)[0] == "linear"
    for op in ("tree_attention", "gumbel_noise", "silu_mul"):
        if op in cases:
            line = kernels.measure(op, next(cases[op]()), "cpu", read=10.0)
            assert line["us"] > 0 and line["torch_us"] > 0 and "error" not in line
    assert kernels.summary([line], 10.0)


def test_simulated_acceptance(tmp_path: Path) -> None:
    """In a chain the number of accepted drafts is geometric: p + p^2 + .. + p^K on average."""
    from bench.gpu import rounds
    from bench.gpu.shapes import TINY

    K, count, p = 4, 400, 0.7
    target = rounds.random_target(TINY, "cpu")
    drafter = init_drafter("parallelspec-eagle", target, K, draft_vocab=100)
    engine = Engine(target, drafter, max_batch=2, max_length=count * (K + 1) + 80)
    state = engine.state
    rounds.fill(state, 32)
    state.finished_B[1] = IDLE
    timer = rounds.RoundTimer(state, engine.decoder, drafter, rounds.SimulatedAcceptance(state, p), "cpu")
    with torch.inference_mode():
        for _ in range(count):
            timer.run()
    accepted = (int(state.length_B[0]) - 32) / count - 1
    expected = sum(p**k for k in range(1, K + 1))
    deviation = math.sqrt(sum((2 * k - 1) * p**k for k in range(1, K + 1)) - expected**2)
    assert abs(accepted - expected) < 4 * deviation / math.sqrt(count)
    assert int(state.length_B[1]) == 32
