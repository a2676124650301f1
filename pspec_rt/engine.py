"""The engine: slots that requests join and leave while others run; what a serving stack embeds."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .drafters.base import Drafter
from .drafters.watch import AcceptanceWatch
from .errors import ConfigError, RequestError
from .kv_cache import KVCache
from .loop import Loop, Result, RoundKey, choose_loop
from .models.memory import Arena
from .models.target import Target
from .models.workspace import Workspace
from .ops import choose_backends
from .prefill import prefill
from .result import Stats, TokenLogprob
from .rounds import Rounds
from .sampling import MAX_STOP_IDS, MODES, SamplingParams, as_int64
from .scratch import Scratch, scratch_of
from .simulate import SimulatedAcceptance
from .state import FINISH_REASON, IDLE, RUNNING, DecodeState, RoundShape
from .tree import MAX_NODES, TreeSpec, parse_tree

log = logging.getLogger("pspec_rt")


@dataclass
class StepOutput:
    """What one round gave one slot."""

    slot: int
    token_ids: list[int]  # accepted drafts, then the target's own token
    finish_reason: str | None  # "stop", "length", "error" (NaN logits), or None while running
    logprobs: list[TokenLogprob] | None = None


@dataclass
class _Request:
    params: SamplingParams
    stats: Stats
    prefill: Iterator[int] | None  # None once the prompt is in
    running: bool = False  # from then on, until a result says that it finished


class _Round(NamedTuple):
    """A round whose results are there, and whose they are."""

    result: Result
    loop: Loop
    state: DecodeState
    running: dict[int, _Request]  # by slot


@dataclass
class Engine:
    """Runs up to `max_batch` sequences together, each in its own slot. Not thread-safe: one thread drives an engine.

    Args:
        target: from `load_target`.
        drafter: from `load_drafter`, or None for plain decoding.
        max_batch: number of slots, B.
        max_length: longest sequence, prompt and new tokens together; default: the model's limit.
        k: drafted depths; default: the drafter's own.
        tree: a TreeSpec, its command-line form ("chain", "best-first:16", "medusa", FILE.json), or None for the
            drafter's default.
        prefill_chunk: prompt tokens taken in per step.
        loop: how rounds are driven, see `pspec_rt.loop`: "eager", "run_ahead", "while", or "auto" (run_ahead where the
            round can be captured; why, if it cannot, is logged and in the statistics).
        simulate_acceptance: for measuring speed where drafts mean nothing, e.g. with random weights: a draft is
            accepted with this probability if its parent is, drawn from the noise of the seed. The text is not the
            model's then; statistics say so.

    All state is allocated here, but for what sampling needs (noise, logits), allocated when the first request that
    samples is admitted.

    Raises:
        ConfigError: k, tree or max_length do not fit the drafter or the model; the loop cannot run here.
        CaptureError: the loop needs captured rounds, and this drafter's cannot be; the message names the op.
    """

    target: Target
    drafter: Drafter | None = None
    max_batch: int = 1
    max_length: int | None = None
    k: int | None = None
    tree: TreeSpec | str | None = None
    prefill_chunk: int = 128
    loop: str = "auto"
    simulate_acceptance: float | None = None
    state: DecodeState = field(init=False, repr=False)

    def __post_init__(self) -> None:
        config = self.target.config
        check_counts(self.max_batch, self.prefill_chunk)
        self.max_length = config.max_positions if self.max_length is None else self.max_length
        check_length(self.max_length, config.max_positions)
        self.tree = tree = resolve_tree(self.drafter, self.k, self.tree)
        self.k = tree.k
        device, dtype = self.target.device, self.target.dtype
        self.backends = choose_backends(device.type)
        chunk = self.prefill_chunk
        # Rows past the longest sequence: the padding of a last prefill chunk, the tree's nodes, the drafter's own rows.
        scratch = max(tree.nodes, self.drafter.scratch_rows(tree.k) if self.drafter else 0)
        S = max(-(-self.max_length // chunk) * chunk, self.max_length + scratch)
        F = config.hidden_size * len(self.drafter.taps) if self.drafter else 0
        shape = RoundShape(self.max_batch, S, config.vocab_size, F, tree)
        sizes = (config.num_layers, self.max_batch, config.num_kv_heads, S, config.head_dim)
        cache = KVCache.allocate(*sizes, dtype=dtype, empty=Arena(device, block=0).empty)
        work = Workspace(config, max(self.max_batch * tree.nodes, chunk), dtype=dtype, device=device)
        self.decoder = self.target.decoder.with_taps(self.drafter.taps if self.drafter else ())
        rope = self.decoder.stack.rope
        rope.reserve(min(S, rope.config.max_positions or S))  # scratch rows past the last position are never accepted
        self.state = DecodeState(shape, cache, work, dtype, device)
        if self.drafter is not None:
            self.drafter.allocate(self.state, chunk)
        if self.simulate_acceptance is not None:
            self.state.simulate = SimulatedAcceptance(self.state, self.simulate_acceptance)
        self._rounds = Rounds(self.state, self.decoder, self.drafter)
        self._requests: list[_Request | None] = [None] * self.max_batch
        self._done: deque[_Round] = deque()  # several, if rounds were in flight when a slot was started
        self._watch = AcceptanceWatch(self.drafter, tree.k)
        self._scratch = Scratch()  # its own: another engine may run on another stream
        with torch.inference_mode(), _current(device), scratch_of(self._scratch):
            key, rounds = RoundKey(self.drafter is not None, "greedy"), self._rounds
            self._eager, self._loop, self.loop_note = choose_loop(
                self.loop, rounds.launch, rounds.read, key, self.state.path_BP
            )

    # -- requests ------------------------------------------------------------------------------------------------

    @property
    def free_slots(self) -> list[int]:
        """Slots that can take a request."""
        return [slot for slot, request in enumerate(self._requests) if request is None]

    def check(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Raise RequestError, naming the fix, if this request could never run here."""
        vocab, limit = self.target.config.vocab_size, self.max_length
        assert limit is not None
        if len(prompt_ids) == 0:
            raise RequestError("the prompt is empty: give at least one token (a BOS token counts)")
        bad = next((i for i in prompt_ids if not 0 <= i < vocab), None)
        if bad is not None:
            raise RequestError(f"prompt token id {bad} is outside the target's vocabulary of {vocab}")
        if len(prompt_ids) + params.max_new_tokens > limit:
            raise RequestError(
                f"{len(prompt_ids)} prompt tokens + max_new_tokens={params.max_new_tokens} exceed the capacity of "
                f"{limit}: shorten the prompt, lower max_new_tokens, or raise max_length "
                f"(the model allows {self.target.config.max_positions})"
            )
        if len(self._stop_ids(params)) > MAX_STOP_IDS:
            raise RequestError(
                f"{len(self._stop_ids(params))} stop ids, end tokens included; at most {MAX_STOP_IDS} fit"
            )

    def add(self, prompt_ids: Sequence[int], params: SamplingParams) -> int:
        """Admit a request and return its slot; its prompt is taken in by the next calls of `step`.

        Raises RequestError (nothing has changed then) if it can never run here, asks for no tokens, or no slot is free.
        """
        self.check(prompt_ids, params)
        if params.max_new_tokens == 0:
            raise RequestError("max_new_tokens=0: there is nothing to run")
        if not self.free_slots:
            raise RequestError(f"all {self.max_batch} slots are busy: release one or raise max_batch")
        slot, s = self.free_slots[0], self.state
        for state in self._rounds.states:
            state.reserve(params.mode)
        self._write_slot(slot, prompt_ids, params)
        job = prefill(s, self.decoder, self.drafter, slot, prompt_ids, self.prefill_chunk)
        kind = "none" if self.drafter is None else self.drafter.kind
        stats = Stats(len(prompt_ids), accepted_per_position=[0] * s.shape.K, loop=self.loop_note, drafter=kind)
        if self.simulate_acceptance is not None:
            stats.simulated = f"acceptance: {self.simulate_acceptance:g} per draft"
        self._requests[slot] = _Request(params, stats, job)
        return slot

    def release(self, slot: int) -> Stats:
        """Free a slot, finished or not, and return its statistics."""
        request = self._requests[slot]
        if request is None:
            raise RequestError(f"slot {slot} holds no request")
        self._requests[slot] = None
        if request.running:
            self._loop.cancel(slot)
        self.state.finished_B[slot] = IDLE
        self.state.length_B[slot] = 1
        self.state.count_B[slot] = 0  # a stale count would let a drafter's scratch rows land in the next prompt's rows
        return request.stats

    def _stop_ids(self, params: SamplingParams) -> list[int]:
        eos = () if params.ignore_eos else self.target.eos_ids
        return sorted({*eos, *params.stop_token_ids})

    def _write_slot(self, slot: int, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        s, length = self.state, len(prompt_ids)
        stop_ids = self._stop_ids(params)
        s.stop_ids_BQ[slot] = torch.tensor(stop_ids + [-1] * (MAX_STOP_IDS - len(stop_ids)), dtype=torch.int32)
        s.limit_B[slot] = length + params.max_new_tokens
        s.seed_B[slot] = as_int64(params.seed)
        for state in self._rounds.states:
            state.temperature_BN[slot], state.temperature_BK[slot] = params.temperature, params.temperature
            state.top_k_BN[slot], state.top_p_BN[slot], state.min_p_BN[slot] = params.top_k, params.top_p, params.min_p
        s.tokens_BS[slot] = -1
        s.tokens_BS[slot, :length] = torch.tensor(prompt_ids, dtype=torch.int32)

    # -- running -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Take in prompts of joining requests, then give the results of one round of all running slots.

        While slots run, one prompt chunk is taken in per step, so that they are held up only briefly; while none does,
        all prompts are. Returns one output per slot that ran; a finished slot stays allocated until `release`.
        """
        with _current(self.target.device), scratch_of(self._scratch):
            self._take_in_prompts()
            if not self._done and self._running_slots:
                self._next_round()
            return self._outputs(self._done.popleft()) if self._done else []

    @property
    def _running_slots(self) -> list[int]:
        return [slot for slot, request in enumerate(self._requests) if request is not None and request.running]

    def _take_in_prompts(self) -> None:
        held_up = bool(self._running_slots)
        for slot, request in enumerate(self._requests):
            if request is not None and request.prefill is not None:
                self._take_in(slot, request, all_chunks=not held_up)
                if held_up:
                    break

    def _next_round(self) -> None:
        params = [self._running(slot).params for slot in self._running_slots]
        loop = self._loop
        if loop is not self._eager and any(p.logprobs is not None for p in params):
            self._drain()  # log-probabilities do not travel through the ring
            loop = self._eager
        # A plain round costs less than one with empty drafts; but to know, the last round must be over.
        drafting = self.drafter is not None and (not loop.in_step or self.drafter.offers(self.state))
        mode = max((p.mode for p in params), key=MODES.index)
        key = RoundKey(drafting, mode)
        self._note(loop.next(key), loop, self._rounds.state_of(key))

    def _drain(self) -> None:
        """Wait for all rounds in flight."""
        for result in self._loop.drain():
            self._note(result, self._loop, self.state)

    def _note(self, result: Result, loop: Loop, state: DecodeState) -> None:
        """A round is done; nobody who starts later has a part in it."""
        running = {slot: self._running(slot) for slot in self._running_slots}
        if running:
            self._done.append(_Round(result, loop, state, running))

    def _running(self, slot: int) -> _Request:
        request = self._requests[slot]
        assert request is not None, f"slot {slot} runs without a request"
        return request

    def _take_in(self, slot: int, request: _Request, all_chunks: bool) -> None:
        """Prefill one chunk of a prompt, or all that is left; a slot whose prompt is in starts running."""
        _wait_for_gpu(self.target.device)  # for the rounds in flight: the prompt's time is its own
        start = time.perf_counter()
        assert request.prefill is not None
        chunks_left = next(request.prefill)
        while chunks_left and all_chunks:
            chunks_left = next(request.prefill)
        if not chunks_left:
            self._start_slot(slot, request)
        _wait_for_gpu(self.target.device)  # the step does anyhow
        request.stats.prefill_s += time.perf_counter() - start

    def _start_slot(self, slot: int, request: _Request) -> None:
        self._drain()  # so that every result to come knows the slot's new request
        self._loop.admit(slot)
        s, length = self.state, request.stats.prompt_tokens
        request.prefill, request.running = None, True
        newest = s.tokens_BS[slot, length - 1]
        s.length_B[slot], s.bonus_B[slot] = length, newest
        s.emitted_BP[slot], s.path_BP[slot] = -1, -1
        s.count_B[slot], s.emitted_BP[slot, 0] = 1, newest
        s.finished_B[slot] = RUNNING

    def _outputs(self, done: _Round) -> list[StepOutput]:
        """Outputs of a round, added to the statistics, of the slots that neither ended nor were released before it."""
        record, outputs = done.result.record, []
        times = self._rounds.timer.seconds() if done.loop.in_step else {"loop": done.result.seconds}
        running = {b: r for b, r in done.running.items() if r.running and r is self._requests[b]}
        for slot, request in running.items():
            code = record.finished[slot]
            ids, reason = record.emitted[slot][: record.count[slot]], FINISH_REASON.get(code)
            if reason == "error":
                log.error("slot %d: the target's logits are NaN after %s; try dtype fp32", slot, request.stats)
                ids = [i for i in ids if i >= 0]
            count, stats = len(ids), request.stats
            request.running = code == RUNNING
            stats.rounds += 1
            stats.new_tokens += count
            stats.drafted += record.drafted[slot]
            stats.accepted += max(count - 1, 0)
            if record.drafted[slot]:
                self._watch.add(count)
            for position in range(count - 1):
                stats.accepted_per_position[position] += 1
            for phase, seconds in times.items():
                setattr(stats, f"{phase}_s", getattr(stats, f"{phase}_s") + seconds / len(running))
            logprobs = _logprobs(done.state, slot, count, request.params.logprobs)
            outputs.append(StepOutput(slot, ids, reason, logprobs))
        return outputs


def _logprobs(s: DecodeState, slot: int, count: int, top: int | None) -> list[TokenLogprob] | None:
    """Log-probabilities of the tokens a slot emitted last round, if they were asked for."""
    if top is None:
        return None
    path = s.path_BP[slot, :count].long()
    chosen = s.logprob_BN[slot][path].tolist()
    ids, values = s.top_ids_BNT[slot][path, :top].tolist(), s.top_logprobs_BNT[slot][path, :top].tolist()
    return [TokenLogprob(c, dict(zip(i, v, strict=True))) for c, i, v in zip(chosen, ids, values, strict=True)]


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the one that kernels are launched on: Triton asks the process, not the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _wait_for_gpu(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream().synchronize()


def check_counts(max_batch: int, prefill_chunk: int) -> None:
    """Raise ConfigError unless there is a slot, and prompts are taken in."""
    if max_batch < 1 or prefill_chunk < 1:
        raise ConfigError(f"max_batch={max_batch}, prefill_chunk={prefill_chunk}: expected numbers >= 1")


def check_length(max_length: int, model_limit: int) -> None:
    """Raise ConfigError unless the model supports sequences of `max_length` tokens."""
    if not 2 <= max_length <= model_limit:
        raise ConfigError(f"max_length={max_length}: the model supports sequences of 2..{model_limit} tokens")


def resolve_tree(drafter: Drafter | None, k: int | None, tree: TreeSpec | str | None) -> TreeSpec:
    """The tree a drafter will draft; raises ConfigError if k or the tree do not fit it."""
    if drafter is None:
        if tree is not None or k is not None:
            raise ConfigError("k and tree need a drafter: plain decoding drafts nothing")
        return TreeSpec.plain()
    if k is not None and not 1 <= k <= drafter.max_k:
        raise ConfigError(f"k={k}: the {drafter.kind} drafter drafts 1..{drafter.max_k} tokens")
    k_used = k or drafter.default_k
    if isinstance(tree, str):
        tree = parse_tree(tree, k_used)
    elif tree is None:
        tree = drafter.default_tree(k_used)
    if tree.k > drafter.max_k:
        raise ConfigError(f"tree {tree.name} has depth {tree.k}; the {drafter.kind} drafter drafts 1..{drafter.max_k}")
    assert tree.nodes <= MAX_NODES
    return tree
