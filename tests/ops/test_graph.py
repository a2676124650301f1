"""Launch graphs: a replay does what the recorded launches did, on whatever the buffers hold by then."""

from __future__ import annotations

import gc
import signal

import pytest
import torch

from pspec_rt import ops
from pspec_rt.engine import Engine
from pspec_rt.ops._dispatch import native
from pspec_rt.ops._graph import MAX_GRAPHS, LaunchGraph, LaunchGraphs, all_native
from pspec_rt.sampling import SamplingParams
from tests.running import run
from tests.tiny import tiny_target

pytestmark = pytest.mark.skipif(not native.available, reason="pspec_rt._C is not built (pip install -e .)")


def test_a_replay_reads_the_buffers_anew() -> None:
    graphs, calls = LaunchGraphs(), []
    x_RI, w_OI, out_RO = torch.randn(3, 8), torch.randn(5, 8), torch.zeros(3, 5)

    def launches() -> None:
        calls.append(1)
        ops.linear(x_RI, w_OI, out_RO)

    for _ in range(3):
        x_RI.normal_()
        graphs.run("key", launches)
        torch.testing.assert_close(out_RO, x_RI @ w_OI.T)
    assert len(calls) == 1


def test_launches_do_not_run_while_they_are_recorded() -> None:
    gate_up_R2I, out_RI = torch.ones(1, 4), torch.zeros(1, 2)
    graph = LaunchGraph(lambda: ops.silu_mul(gate_up_R2I, out_RI))
    assert out_RI.tolist() == [[0, 0]]
    graph.replay()
    assert out_RI.min() > 0


def test_a_recording_inside_another_is_part_of_it() -> None:
    graphs, gate_up_R2I, out_RI = LaunchGraphs(), torch.ones(1, 4), torch.zeros(1, 2)
    outer = LaunchGraph(lambda: graphs.run("key", lambda: ops.silu_mul(gate_up_R2I, out_RI)))
    assert native.graph_size(outer.handle) == 1
    assert not graphs._graphs


def test_a_profile_is_a_replay_with_the_time_of_each_launch() -> None:
    x_RI, w_OI, out_RO, act_RI = torch.randn(3, 8), torch.randn(4, 8), torch.zeros(3, 4), torch.zeros(3, 2)
    native.graph_begin()
    ops.linear(x_RI, w_OI, out_RO)
    ops.silu_mul(out_RO, act_RI)
    handle = native.graph_end()
    x_RI.normal_()
    times = native.graph_profile(handle)
    native.graph_free(handle)
    assert [op for op, _ in times] == ["linear", "silu_mul"]
    assert all(seconds >= 0 for _, seconds in times)
    torch.testing.assert_close(out_RO, x_RI @ w_OI.T)


def test_a_burst_can_be_interrupted_between_rounds() -> None:
    seconds, go = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.int32)  # it would never end by itself
    graph = LaunchGraph(lambda: native.clock(seconds.data_ptr()))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            native.graph_burst(graph.handle, go.data_ptr())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seconds[0] > 0


def test_recording_ends_when_a_launch_fails() -> None:
    graphs = LaunchGraphs()
    with pytest.raises(ZeroDivisionError):
        graphs.run("key", lambda: 1 / 0)
    native.graph_begin()  # would refuse if the recording were still on
    native.graph_free(native.graph_end())


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="no such graph"):
        native.graph_replay(10**9)
    with pytest.raises(ValueError, match="not recording"):
        native.graph_end()


def test_graphs_are_freed_with_their_owner() -> None:
    graphs, gate_up_R2I, out_RI = LaunchGraphs(), torch.ones(1, 4), torch.zeros(1, 2)
    graphs.run("key", lambda: ops.silu_mul(gate_up_R2I, out_RI))
    handle = graphs._graphs["key"].handle
    assert native.graph_size(handle) == 1
    del graphs
    gc.collect()
    with pytest.raises(ValueError, match="no such graph"):
        native.graph_size(handle)


def test_graphs_do_not_pile_up() -> None:
    graphs, gate_up_R2I, out_RI = LaunchGraphs(), torch.ones(1, 4), torch.zeros(1, 2)
    for key in range(3 * MAX_GRAPHS):
        graphs.run(key, lambda: ops.silu_mul(gate_up_R2I, out_RI))
    assert len(graphs._graphs) == MAX_GRAPHS
    first, last = (graphs._graphs[key].handle for key in (2 * MAX_GRAPHS, 3 * MAX_GRAPHS - 1))
    assert native.graph_size(first) == native.graph_size(last) == 1


def test_a_pass_is_recorded_and_survives_longer_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second engine grows the RoPE tables that the first one's graph points into: the first must record anew."""
    assert all_native(("linear", "rope_append"), "cpu")
    target, params = tiny_target("Qwen3ForCausalLM", dtype="fp32"), [SamplingParams(12, ignore_eos=True)]
    first = Engine(target, max_length=40, prefill_chunk=16, loop="eager")
    text = run(first, [[5, 6, 7]], params)
    rows = first.state.work.rows(1)
    assert len(rows.graphs._graphs) == 1
    longer = Engine(target, max_length=400, prefill_chunk=16, loop="eager")
    assert run(longer, [[5, 6, 7]], params) == text == run(first, [[5, 6, 7]], params)
    assert len(rows.graphs._graphs) == 2
    monkeypatch.setattr(LaunchGraphs, "run", lambda graphs, key, launches: launches())
    assert run(longer, [[5, 6, 7]], params) == text


def test_a_failed_recording_is_not_replayed() -> None:
    """The launches before a failure must not pass for the whole sequence."""
    graphs, gate_up_R2I, out_RI = LaunchGraphs(), torch.ones(1, 4), torch.zeros(2, 1, 2)

    def launches(fails: bool = False) -> None:
        ops.silu_mul(gate_up_R2I, out_RI[0])
        if fails:
            raise KeyboardInterrupt
        ops.silu_mul(gate_up_R2I, out_RI[1])

    with pytest.raises(KeyboardInterrupt):
        graphs.run("key", lambda: launches(fails=True))
    graphs.run("key", launches)
    assert out_RI.min() > 0
