"""The engine's rules: capacity, limits, stops, reuse of slots, statistics, sampling from the right distribution."""

from __future__ import annotations

import pytest
import torch
from scipy import stats as scipy_stats

from pspec_rt.drafters.ngram import NgramDrafter
from pspec_rt.engine import Engine, resolve_tree
from pspec_rt.errors import ConfigError, RequestError
from pspec_rt.sampling import MAX_STOP_IDS, SamplingParams
from pspec_rt.state import LENGTH, RUNNING
from pspec_rt.tree import TreeSpec
from tests.oracle import OracleDrafter
from tests.running import run
from tests.test_lossless import CHUNK, PROMPTS, make_params, plain
from tests.tiny import tiny_target


def engine_of(**options: object) -> Engine:
    return Engine(tiny_target(dtype="fp32"), **{"max_length": 96, "prefill_chunk": CHUNK, **options})


def test_capacity_is_checked_up_front() -> None:
    engine = engine_of(max_length=32)
    with pytest.raises(RequestError, match="exceed the capacity of 32.*max_length"):
        engine.add([1] * 20, SamplingParams(13))
    assert engine.free_slots == [0]
    assert len(run(engine, [[1] * 20], [SamplingParams(12, ignore_eos=True)])[0]) == 12


@pytest.mark.parametrize("drafter", [None, NgramDrafter()])
def test_a_sequence_may_fill_the_capacity_exactly(drafter: NgramDrafter | None) -> None:
    engine = engine_of(max_length=48, drafter=drafter)
    tokens = run(engine, [[4, 5, 6, 7] * 8], [SamplingParams(16, ignore_eos=True)])[0]
    assert len(tokens) == 16


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "prompt is empty"),
        ([1, 10_000], {}, "10000 is outside the target's vocabulary"),
        ([1, -1], {}, "-1 is outside"),
        ([1], {"max_new_tokens": 0}, "nothing to run"),
        ([1], {"stop_token_ids": tuple(range(MAX_STOP_IDS + 1))}, "at most 16 fit"),
    ],
)
def test_bad_requests(prompt: list[int], params: dict[str, int], message: str) -> None:
    engine = engine_of()
    with pytest.raises(RequestError, match=message):
        engine.add(prompt, SamplingParams(**{"max_new_tokens": 4, **params}))
    assert engine.free_slots == [0]


def test_no_free_slot() -> None:
    engine = engine_of()
    engine.add([1, 2], SamplingParams(4))
    with pytest.raises(RequestError, match="all 1 slots are busy"):
        engine.add([1, 2], SamplingParams(4))
    with pytest.raises(RequestError, match="slot 0 holds no request"):
        engine.release(0), engine.release(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "max_length=1"),
        ({"max_length": 10**9}, "the model supports"),
        ({"max_batch": 0}, "max_batch=0"),
        ({"k": 3}, "need a drafter"),
        ({"drafter": NgramDrafter(), "k": 33}, r"k=33: the ngram drafter drafts 1\.\.32"),
        ({"drafter": NgramDrafter(), "k": 0}, "k=0"),
        ({"drafter": NgramDrafter(), "tree": "bush"}, "unknown tree 'bush'"),
        ({"drafter": NgramDrafter(), "tree": "best-first:65"}, "at most 64"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_of(**options)


def test_resolve_tree() -> None:
    drafter = NgramDrafter()
    assert resolve_tree(None, None, None) == TreeSpec.plain()
    assert resolve_tree(drafter, None, None) == TreeSpec.chain(drafter.default_k)
    assert resolve_tree(drafter, 3, "best-first:8") == TreeSpec.best_first(3, 8)


@pytest.mark.parametrize("accepted", ["useless", "good"])
def test_stop_ids_end_a_sequence_wherever_they_fall(accepted: str) -> None:
    """The stop token is the last one, at every place of a round's path; the statistics end there too."""
    expected = plain("fp32", "noise")[0]
    for cut in range(1, 9):
        stop_id = expected[cut]
        if stop_id in expected[:cut]:
            continue
        drafter = OracleDrafter(accepted, [PROMPTS[0] + expected], tiny_target(dtype="fp32").config.vocab_size)
        engine = engine_of(drafter=drafter, tree=TreeSpec.chain(4))
        params = SamplingParams(24, temperature=1.0, seed=100, ignore_eos=True, stop_token_ids=(stop_id,))
        engine.add(PROMPTS[0], params)
        tokens, reason = [], None
        while reason is None:
            for output in engine.step():
                tokens += output.token_ids
                reason = output.finish_reason
        stats = engine.release(0)
        assert (tokens, reason) == (expected[: cut + 1], "stop")
        assert stats.new_tokens == cut + 1 == stats.rounds + stats.accepted


def test_finished_slots_write_nothing() -> None:
    engine = engine_of(max_batch=2, drafter=NgramDrafter())
    engine.add(PROMPTS[0], SamplingParams(2, ignore_eos=True))
    engine.add(PROMPTS[2], SamplingParams(40, ignore_eos=True))
    while engine.state.finished_B.tolist() != [LENGTH, RUNNING]:
        engine.step()
    committed = int(engine.state.length_B[0]) - 1
    cache = engine.state.cache.kv_L2BGSE[:, :, 0, :, :committed].clone()
    tokens, length = engine.state.tokens_BS[0].clone(), int(engine.state.length_B[0])
    for _ in range(5):
        assert [output.slot for output in engine.step()] == [1]
    assert torch.equal(engine.state.cache.kv_L2BGSE[:, :, 0, :, :committed], cache)
    assert torch.equal(engine.state.tokens_BS[0], tokens) and int(engine.state.length_B[0]) == length


def test_a_reused_slot_starts_clean() -> None:
    """Poison everything a slot held; the next request in it must not notice."""
    expected = plain("bf16", "top_p")
    engine = Engine(tiny_target(dtype="bf16"), NgramDrafter(), max_batch=3, max_length=96, prefill_chunk=CHUNK)
    run(engine, PROMPTS, make_params("noise", 3))
    engine.state.cache.kv_L2BGSE.fill_(torch.nan)
    engine.state.tokens_BS.fill_(2_147_480_000)
    engine.state.emitted_BP.fill_(2_147_480_000)
    assert run(engine, PROMPTS, make_params("top_p", 3)) == expected


@pytest.mark.parametrize("drafter", [None, NgramDrafter()])
def test_nan_logits_end_one_sequence_and_keep_the_others(drafter: NgramDrafter | None) -> None:
    """From some round on one slot's cache is poisoned: it ends as "error" with what it had; its neighbour goes on."""
    expected = run(engine_of(max_batch=2), PROMPTS[:2], make_params("greedy", 2))
    engine = engine_of(max_batch=2, drafter=drafter)
    for prompt, params in zip(PROMPTS[:2], make_params("greedy", 2), strict=True):
        engine.add(prompt, params)
    tokens, reasons, steps = {0: [], 1: []}, {}, 0
    while len(reasons) < 2:
        steps += 1
        if steps == 6:
            engine.state.cache.kv_L2BGSE[:, :, 0, :, :4] = torch.nan
        for output in engine.step():
            tokens[output.slot] += output.token_ids
            if output.finish_reason:
                reasons[output.slot] = output.finish_reason
    assert reasons == {0: "error", 1: "length"}
    assert tokens[1] == expected[1]
    assert 0 < len(tokens[0]) < len(expected[0]) and tokens[0] == expected[0][: len(tokens[0])]


def test_statistics() -> None:
    expected = plain("fp32", "greedy")[:1]
    drafter = OracleDrafter("flaky", [PROMPTS[0] + expected[0]], tiny_target(dtype="fp32").config.vocab_size)
    engine = engine_of(drafter=drafter, tree=TreeSpec.chain(4))
    engine.add(PROMPTS[0], make_params("greedy", 1)[0])
    counts = []
    while not counts or engine.state.finished_B[0] != 2:
        counts += [len(output.token_ids) for output in engine.step()]
    stats = engine.release(0)
    assert stats.prompt_tokens == 20 and stats.new_tokens == sum(counts) == 28
    assert stats.rounds == len(counts) and stats.accepted == sum(counts) - len(counts)
    assert stats.mean_acceptance_length == pytest.approx(28 / len(counts))
    assert stats.accepted_per_position == [sum(c > i + 1 for c in counts) for i in range(4)]
    assert stats.drafted <= 4 * stats.rounds
    assert min(stats.prefill_s, stats.draft_s, stats.verify_s, stats.rest_s, stats.tokens_per_s) > 0


def test_logprobs_are_of_the_raw_logits() -> None:
    engine = engine_of(drafter=NgramDrafter(), k=4, prefill_chunk=64)
    params = SamplingParams(10, temperature=0.7, top_k=5, seed=3, ignore_eos=True, logprobs=3)
    engine.add(PROMPTS[0], params)
    tokens, logprobs = [], []
    while len(tokens) < 10:
        for output in engine.step():
            tokens += output.token_ids
            logprobs += output.logprobs
    engine.release(0)
    decoder, ids = engine.decoder, torch.tensor(PROMPTS[0] + tokens, dtype=torch.int32)
    with torch.inference_mode():
        hidden = decoder.prefill_chunk(ids, 0, engine.state.cache.slot(0), engine.state.work)
        expected = torch.log_softmax(hidden.float() @ decoder.head_VM.float().T, dim=1)
    for i, (token, entry) in enumerate(zip(tokens, logprobs, strict=True)):
        row = expected[len(PROMPTS[0]) - 1 + i]
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert list(entry.top.values()) == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert token in row.topk(5).indices


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.7, 12)])
def test_tokens_follow_the_exact_distribution(temperature: float, top_k: int) -> None:
    """Chi-square of the first two tokens over many seeds against softmax(filter(logits / T))."""
    slots, waves = 64, 40
    engine = engine_of(max_batch=slots, max_length=32, drafter=NgramDrafter(), k=1)
    prompt = PROMPTS[0][:6]
    seen: list[tuple[int, int]] = []
    for wave in range(waves):
        params = [
            SamplingParams(2, temperature=temperature, top_k=top_k, seed=wave * slots + i, ignore_eos=True)
            for i in range(slots)
        ]
        seen += [(t[0], t[1]) for t in run(engine, [prompt] * slots, params)]
    first = _exact(engine, prompt, temperature, top_k)
    _assert_fits([a for a, _ in seen], first)
    favourite = int(first.argmax())
    _assert_fits([b for a, b in seen if a == favourite], _exact(engine, [*prompt, favourite], temperature, top_k))


def _exact(engine: Engine, ids: list[int], temperature: float, top_k: int) -> torch.Tensor:
    tokens = torch.tensor(ids, dtype=torch.int32)
    with torch.inference_mode():
        hidden = engine.decoder.prefill_chunk(tokens, 0, engine.state.cache.slot(0), engine.state.work)
        z_V = (hidden[-1].float() @ engine.decoder.head_VM.float().T) / temperature
    if top_k:
        z_V = torch.where(z_V < z_V.topk(top_k).values[-1], -torch.inf, z_V)
    return torch.softmax(z_V.double(), 0)


def _assert_fits(tokens: list[int], p_V: torch.Tensor) -> None:
    counts = torch.bincount(torch.tensor(tokens), minlength=len(p_V)).double()
    assert counts[p_V == 0].sum() == 0
    expected = p_V * len(tokens)
    common = expected >= 5
    assert common.sum() >= 3, "too few draws to test"
    observed = [*counts[common].tolist(), float(counts[~common].sum())]
    theory = [*expected[common].tolist(), float(expected[~common].sum())]
    if theory[-1] < 1:
        observed, theory = observed[:-1], theory[:-1]
    scale = sum(observed) / sum(theory)
    assert scipy_stats.chisquare(observed, [t * scale for t in theory]).pvalue > 1e-4
