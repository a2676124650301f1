"""The yardstick of memory, and the op benchmarks that are measured against it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import kernels
from bench.ops import _bench
from pspec_rt.measure import bandwidth
from pspec_rt.ops._dispatch import REGISTRY, native
from tests.tiny import tiny_target


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that exceeds the last-level cache takes seconds and gigabytes."""
    monkeypatch.setattr(bandwidth, "streaming_bytes", lambda: 64 << 20)
    _bench.pool.cache_clear()
    yield
    _bench.pool.cache_clear()


@pytest.mark.parametrize("tie", [True, False])
def test_weight_bytes_leave_out_what_is_only_looked_up(tie: bool) -> None:
    decoder = tiny_target(tie=tie).decoder
    layers = sum(layer.nbytes for layer in decoder.stack.layers)
    assert bandwidth.weight_bytes(decoder) == layers + decoder.norm_M.nbytes + decoder.head_VM.nbytes


def test_the_streaming_buffer_exceeds_the_cache_and_spares_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for cache, free, expected in (
        (480 << 20, 64 << 30, 4 * 480 << 20),
        (480 << 20, 4 << 30, 1 << 30),  # a quarter of what is free
        (8 << 20, 64 << 30, bandwidth.LEAST_BYTES),
        (0, None, 4 * bandwidth.UNKNOWN_CACHE),
    ):
        monkeypatch.setattr(bandwidth, "last_level_cache", lambda cache=cache: cache)
        monkeypatch.setattr(bandwidth, "free_memory", lambda free=free: free)
        assert bandwidth.streaming_bytes() == expected
    assert bandwidth._bytes_of("480K") == 480 << 10 and bandwidth._bytes_of("") == 0


@pytest.mark.skipif(not native.available, reason="pspec_rt._C is not built (pip install -e .)")
def test_every_byte_is_read(threads: None) -> None:
    words = torch.randint(-(2**62), 2**62, (8 * 1001,))
    expected = int(words.sum()) % 2**64
    for count in (1, 2, 3):
        native.set_num_threads(count)
        total, seconds = native.read_sum(words.data_ptr(), words.nbytes)
        assert total == expected and seconds > 0
    assert native.read_sum(words.data_ptr(), 0)[0] == 0


@pytest.mark.parametrize(("op", "models"), [("silu_mul", {"Qwen2.5-0.5B"}), ("linear", {"SmolLM2-135M"})])
def test_op_benchmarks_write_json(
    op: str, models: set[str], tmp_path: Path, threads: None, small_buffers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kernels.json"
    argv = ["--backend", "cpu", "--quick", "--ops", op, "--models", ",".join(models), "--rows", "1,2", "--threads", "1"]
    kernels.main([*argv, "--json", str(out)])
    assert f"\n{op}\n" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert {"date", "command", "commit", "versions", "cpu", "threads", "read_bandwidth"} <= set(report["meta"])
    assert {line["rows"] for line in report["lines"]} == {1, 2} and {line["op"] for line in report["lines"]} == {op}
    assert {line["model"] for line in report["lines"]} == models
    for line in report["lines"]:
        assert 0 < line["us_p20"] <= line["us"] <= line["us_p80"] and line["torch_us"] > 0
        assert line["over_torch"] == pytest.approx(line["torch_us"] / line["us"])
        if native.available:
            expected = line["gb_per_s"] / report["meta"]["read_bandwidth"]["gbs"]
            assert line["of_read_bandwidth"] == pytest.approx(expected)


@pytest.mark.parametrize("op", sorted(REGISTRY))
def test_the_first_case_of_every_op_runs(op: str, small_buffers: None) -> None:
    """On every backend, so that a benchmark cannot fall behind its op's signature."""
    cases = importlib.import_module(f"bench.ops.bench_{op}").cases(_bench.MODELS[0], 8)
    case = next(iter(cases))
    for run in _bench.backends_of(op).values():
        args, kwargs = case.make()
        run(*args, **kwargs)


def test_lines_of_a_gpu_benchmark(small_buffers: None) -> None:
    """The same lines from the runner for GPUs, which on a CPU just runs the calls."""
    pytest.importorskip("triton")
    model = _bench.Model("tiny", M=64, H=4, G=2, E=64, I=96, V=128, L=1)
    for op in ("linear", "draft_inputs"):
        for case in importlib.import_module(f"bench.ops.bench_{op}").cases(model, 8):
            (line,) = _bench.measure_on_gpu(op, case, _bench.backends_of(op, "ref"), 10.0, "cpu")
            assert (line.op, line.shape, line.backend) == (op, case.shape, "ref")
            assert line.gb_per_s == pytest.approx(case.bytes / line.us / 1e3) and line.torch_us > 0
            assert line.of_read_bandwidth == pytest.approx(line.gb_per_s / 10)


@pytest.mark.parametrize("options", [["--ops", "juggle"], ["--models", "SmolLM2-135M,GPT-9"]])
def test_op_benchmarks_refuse_unknown_names(options: list[str], threads: None) -> None:
    with pytest.raises(SystemExit, match="unknown (op 'juggle'|model 'GPT-9'): choose from"):
        kernels.main(["--threads", "1", *options])


def test_weights_come_from_all_of_the_pool(small_buffers: None) -> None:
    first, second, third = (_bench.weights(1 << 12, 1 << 12) for _ in range(3))  # each one half of the pool
    assert first.data_ptr() == third.data_ptr() and second.data_ptr() == first.data_ptr() + first.nbytes
    odd = _bench.weights(3, 5)
    assert (_bench.weights(2, 2).data_ptr() - odd.data_ptr()) % 64 == 0
