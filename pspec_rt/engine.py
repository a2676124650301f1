"""The engine: slots that requests join and leave while others run; what a serving stack embeds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from .drafters.base import Drafter
from .errors import ConfigError, RequestError
from .kv_cache import KVCache
from .models.target import Target
from .models.workspace import Workspace
from .ops import choose_backends
from .prefill import prefill
from .result import Stats, TokenLogprob
from .sampling import MAX_STOP_IDS, MODES, SamplingParams, as_int64
from .state import FINISH_REASON, IDLE, RUNNING, STOP, DecodeState, RoundShape
from .step import decode_round
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


class PhaseTimer:
    """Seconds per phase of a round, by the clock on a CPU and by events on a GPU; it never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._start: Any = None
        self._ends: list[tuple[str, Any]] = []  # phase, time at its end

    def start(self) -> None:
        self._start, self._ends = self._now(), []

    def mark(self, phase: str) -> None:
        self._ends.append((phase, self._now()))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[str, float]:
        """{phase: seconds} of the round; on a GPU only once its results have been read."""
        seconds: dict[str, float] = {}
        last = self._start
        for phase, end in self._ends:
            span = last.elapsed_time(end) / 1000 if self._on_gpu else end - last
            seconds[phase], last = seconds.get(phase, 0.0) + span, end
        return seconds


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

    All state is allocated here, but for what sampling needs (noise, logits), allocated when the first request that
    samples is admitted.

    Raises:
        ConfigError: k, tree or max_length do not fit the drafter or the model.
    """

    target: Target
    drafter: Drafter | None = None
    max_batch: int = 1
    max_length: int | None = None
    k: int | None = None
    tree: TreeSpec | str | None = None
    prefill_chunk: int = 128
    state: DecodeState = field(init=False, repr=False)

    def __post_init__(self) -> None:
        config = self.target.config
        if self.max_batch < 1 or self.prefill_chunk < 1:
            raise ConfigError(f"max_batch={self.max_batch}, prefill_chunk={self.prefill_chunk}: expected numbers >= 1")
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
        cache = KVCache.allocate(
            config.num_layers, self.max_batch, config.num_kv_heads, S, config.head_dim, dtype=dtype, device=device
        )
        work = Workspace(config, max(self.max_batch * tree.nodes, chunk), dtype=dtype, device=device)
        self.decoder = self.target.decoder.with_taps(self.drafter.taps if self.drafter else ())
        rope = self.decoder.stack.rope
        rope.reserve(min(S, rope.config.max_positions or S))  # scratch rows past the last position are never accepted
        self.state = DecodeState(shape, cache, work, dtype, device)
        if self.drafter is not None:
            self.drafter.allocate(self.state, chunk)
        self._plain_state = self.state if self.drafter is None else self.state.plain_twin()
        self._requests: list[_Request | None] = [None] * self.max_batch
        self._timer = PhaseTimer(device)

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
        for state in self._states:
            state.reserve(params.mode)
        self._write_slot(slot, prompt_ids, params)
        job = prefill(s, self.decoder, self.drafter, slot, prompt_ids, self.prefill_chunk)
        stats = Stats(prompt_tokens=len(prompt_ids), accepted_per_position=[0] * s.shape.K)
        self._requests[slot] = _Request(params, stats, job)
        return slot

    def release(self, slot: int) -> Stats:
        """Free a slot, finished or not, and return its statistics."""
        request = self._requests[slot]
        if request is None:
            raise RequestError(f"slot {slot} holds no request")
        self._requests[slot] = None
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
        for state in self._states:
            state.temperature_BN[slot], state.temperature_BK[slot] = params.temperature, params.temperature
            state.top_k_BN[slot], state.top_p_BN[slot], state.min_p_BN[slot] = params.top_k, params.top_p, params.min_p
        s.tokens_BS[slot] = -1
        s.tokens_BS[slot, :length] = torch.tensor(prompt_ids, dtype=torch.int32)

    # -- running -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Take in prompts of joining requests, then run one round for all running slots.

        While slots run, one prompt chunk is taken in per step, so that they are held up only briefly; while none does,
        all prompts are. Returns one output per slot that ran; a finished slot stays allocated until `release`.
        """
        with _current(self.target.device):
            return self._step()

    def _step(self) -> list[StepOutput]:
        held_up = RUNNING in self.state.finished_B.tolist()
        for slot, request in enumerate(self._requests):
            if request is not None and request.prefill is not None:
                self._take_in(slot, request, all_chunks=not held_up)
                if held_up:
                    break
        running = [slot for slot, code in enumerate(self.state.finished_B.tolist()) if code == RUNNING]
        if not running:
            return []
        self._timer.start()
        drafter = self.drafter if self.drafter is not None and self.drafter.offers(self.state) else None
        state = self.state if drafter is not None else self._plain_state
        state.mode = max((self._running(slot).params.mode for slot in running), key=MODES.index)
        decode_round(state, self.decoder, drafter, self._timer.mark)
        return self._collect(state, running)

    def _running(self, slot: int) -> _Request:
        request = self._requests[slot]
        assert request is not None, f"slot {slot} runs without a request"
        return request

    def _take_in(self, slot: int, request: _Request, all_chunks: bool) -> None:
        """Prefill one chunk of a prompt, or all that is left; a slot whose prompt is in starts running."""
        start = time.perf_counter()
        assert request.prefill is not None
        chunks_left = next(request.prefill)
        while chunks_left and all_chunks:
            chunks_left = next(request.prefill)
        if not chunks_left:
            self._start_slot(slot, request)
        if self.target.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # for an honest time; the step waits for the prompt anyhow
        request.stats.prefill_s += time.perf_counter() - start

    def _start_slot(self, slot: int, request: _Request) -> None:
        s, length = self.state, request.stats.prompt_tokens
        request.prefill = None
        newest = s.tokens_BS[slot, length - 1]
        s.length_B[slot], s.bonus_B[slot] = length, newest
        s.emitted_BP[slot], s.path_BP[slot] = -1, -1
        s.count_B[slot], s.emitted_BP[slot, 0] = 1, newest
        s.finished_B[slot] = RUNNING

    def _collect(self, s: DecodeState, running: list[int]) -> list[StepOutput]:
        """Read the round's results back: the one point where the host waits for the device."""
        counts, emitted, finished = s.count_B.tolist(), s.emitted_BP.tolist(), s.finished_B.tolist()
        offered = (s.ids_BN >= 0).sum(dim=1).tolist()
        times = self._timer.seconds()
        outputs = []
        for slot in running:
            request, ids, reason = self._running(slot), emitted[slot][: counts[slot]], FINISH_REASON.get(finished[slot])
            if -1 in ids:  # NaN logits have no argmax
                log.error("slot %d: the target's logits are NaN after %s; try dtype fp32", slot, request.stats)
                ids, reason = ids[: ids.index(-1)], "error"
                self.state.finished_B[slot] = STOP
            count, stats = len(ids), request.stats
            stats.rounds += 1
            stats.new_tokens += count
            stats.drafted += offered[slot] - 1
            stats.accepted += max(count - 1, 0)
            for position in range(count - 1):
                stats.accepted_per_position[position] += 1
            for phase, seconds in times.items():
                setattr(stats, f"{phase}_s", getattr(stats, f"{phase}_s") + seconds / len(running))
            logprobs = _logprobs(s, slot, count, request.params.logprobs)
            outputs.append(StepOutput(slot, ids, reason, logprobs))
        return outputs

    @property
    def _states(self) -> tuple[DecodeState, ...]:
        """The states rounds run on: with the tree, and plain."""
        return (self.state,) if self._plain_state is self.state else (self.state, self._plain_state)


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
