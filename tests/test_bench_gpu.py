"""bench.gpu where there is no GPU: what it says then, its bookkeeping, and the logic of its sections on tiny shapes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu import run
from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine
from pspec_rt.ops._dispatch import native
from tests.tiny import tiny_target

pytest.importorskip("triton")
needs_native = pytest.mark.skipif(not native.available, reason="pspec_rt._C is not built (pip install -e .)")


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


@pytest.mark.full
def test_tests_that_take_too_long_are_stopped_and_reported(tmp_path: Path) -> None:
    from bench.gpu import tests

    (tmp_path / "test_slow.py").write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(99)\n")
    junit = tmp_path / "tests.xml"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", f"--junitxml={junit}"]
    assert not tests.finish([sys.executable, "-m", "pytest", *options, str(tmp_path)], 8.0)
    assert {"test_slow::test_a": "passed"}.items() <= {x["test"]: x["outcome"] for x in tests.results(junit)}.items()


def test_a_weight_has_orders_of_both_kinds(tmp_path: Path) -> None:
    from bench.gpu import tune
    from bench.gpu.shapes import LLAMA_8B, weights_of

    for shape in weights_of(LLAMA_8B):
        orders = tune.orders_for(shape, run.Job(tmp_path, "cuda", 0.0))
        trials = list(tune.trials_of(shape, (16,), orders, 90))
        assert {order.unit for *_, order, _ in trials} == {"warp", "block"} and len(trials) < 80, shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="for the interpreter: tensors are on the CPU")
@pytest.mark.usefixtures("triton_device")
@pytest.mark.parametrize("name", ["memory", "tune", "matrix", "rounds", pytest.param("commit", marks=needs_native)])
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="its CPU side")
@needs_native
def test_section_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.gpu import loops

    found = report()
    plain = loops.Setup("plain", None, 16, lambda: None)  # torch ops simulate acceptance, which a CPU cannot capture
    monkeypatch.setattr(loops, "setups", lambda target, job: [plain])
    loops.run(job(tmp_path), found)
    iterations, rounds = found["lines"][: len(loops.FILLERS)], found["lines"][len(loops.FILLERS) :]
    assert [line["fillers"] for line in iterations] == list(loops.FILLERS)
    assert all(line["while_us"] > 0 and line["replay_us"] > 0 for line in iterations)
    assert [line["loop"] for line in rounds] == [f"{loop}: asked for" for loop in loops.LOOPS]
    assert all(0 <= line["idle"] < 1 and line["tokens_per_round"] == 1 for line in rounds)
    assert found["summary"][0].startswith("body of 0 + 1 kernels") and "idle" in found["summary"][-1]


def test_drive_counts_rounds_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.gpu import loops

    engine = Engine(tiny_target(dtype="fp32"), NgramDrafter(), max_length=96, loop="eager", simulate_acceptance=0.9)
    line = loops.drive(engine, prefix=20, rounds=6)
    assert 1 <= line["tokens_per_round"] <= 8 and line["round_ms"] > 0
    p = loops.probability(3.0, 8)
    assert sum(p**i for i in range(9)) == pytest.approx(3.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for the interpreter: tensors are on the CPU")
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
