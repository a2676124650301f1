"""Simulated acceptance: as many drafts are accepted as was asked for, and nothing hides that it was simulated."""

from __future__ import annotations

import math

import pytest

from pspec_rt.drafters.new import init_drafter
from pspec_rt.engine import Engine
from pspec_rt.errors import ConfigError
from pspec_rt.sampling import SamplingParams
from pspec_rt.tree import TreeSpec
from tests.running import run
from tests.tiny import tiny_target

K, P, TOKENS = 4, 0.7, 600


def engine(p: float | None = P, **options: object) -> Engine:
    target = tiny_target(options=(("num_hidden_layers", 1), ("max_position_embeddings", 1024)))
    drafter = init_drafter("parallelspec-eagle", target, K, draft_vocab=100)
    return Engine(target, drafter, max_length=TOKENS + 20, loop="eager", simulate_acceptance=p, **options)


def test_a_chain_accepts_a_geometric_number() -> None:
    """p + p^2 + .. + p^K drafts a round on average."""
    running = engine(tree="chain", max_batch=2)
    slots = [running.add([1, 2, 3 + i], SamplingParams(TOKENS, seed=i, ignore_eos=True)) for i in range(2)]
    while running._running_slots or not running.state.count_B.any():
        running.step()
    for stats in map(running.release, slots):
        expected = sum(P**k for k in range(1, K + 1))
        deviation = math.sqrt(sum((2 * k - 1) * P**k for k in range(1, K + 1)) - expected**2)
        assert abs(stats.accepted / stats.rounds - expected) < 4 * deviation / math.sqrt(stats.rounds)
        assert stats.simulated == "acceptance: 0.7 per draft" == stats.to_dict()["simulated"]


def test_positions_decide_not_trees() -> None:
    """First children are accepted at the same positions whatever else is drafted."""
    lengths = []
    for tree in (TreeSpec.chain(K), TreeSpec.static([(0,) * K, (1,), (0, 1)])):
        made = engine(tree=tree)
        made.add([5, 6], SamplingParams(60, seed=3, ignore_eos=True))
        lengths.append([len(output.token_ids) for _ in range(12) for output in made.step()])
    assert lengths[0] == lengths[1] and len(set(lengths[0])) > 1


def test_off_by_default_and_within_bounds() -> None:
    made = engine(None)
    assert made.state.simulate is None
    run(made, [[1, 2]], [SamplingParams(3, ignore_eos=True)])
    for p in (0.0, 1.0, -0.5):
        with pytest.raises(ConfigError, match="simulate_acceptance"):
            engine(p)
    with pytest.raises(ConfigError, match="needs a drafter"):
        Engine(tiny_target(), simulate_acceptance=0.5)
