"""Generator: prompts in, text out, streamed or whole; the front door of the library."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import torch

from .engine import Engine, StepOutput, check_counts, check_length
from .errors import RequestError
from .loop import check_loop
from .models.target import Target, load_target
from .result import GenerationOutput, Stats, StreamChunk, TokenLogprob
from .sampling import SamplingParams, derive_seed
from .simulate import check_simulation
from .team import AUTO, Choice, Member, Spec, Team, find_members
from .text import TextStream
from .tokenizer import StreamDecoder, Tokenizer
from .tree import TreeSpec

log = logging.getLogger("pspec_rt")

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]
DEFAULT_MAX_LENGTH = 8192  # cap of the default capacity; longer contexts are asked for by max_length


@dataclass
class _Sequence:
    """One sequence to generate and what has come of it."""

    prompt_index: int
    sample_index: int
    prompt_ids: list[int]
    params: SamplingParams
    seed: int  # as the user gave it
    text: TextStream
    token_ids: list[int] = field(default_factory=list)
    draft_accepted: list[bool] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    last_round: tuple[int, int] = (0, 0)  # tokens emitted, tokens kept
    reported_text: int = 0
    reported_tokens: int = 0


class Generator:
    """Generates text with a target model and, if wanted, a drafter; the drafter never changes the text.

    Args:
        target: a checkpoint folder, a hub id, or a loaded `Target`.
        drafter: "auto" (the shipped drafter that fits with lookup beside it, else lookup alone), None or "none" (plain
            decoding), "ngram", a drafter checkpoint, any of these with "+ngram" (lookup beside it), or a `Drafter`.
        drafters: several of these instead. What they have measured decides who serves next (see `pspec_rt.bandit`),
            `output.stats.drafter` and `choices` say who did. Each has its own engine, made when it is first chosen; one
            whose engine cannot be made is left out, with a warning, once another has served.
        dtype: "auto" (the checkpoint's), "bf16" or "fp32"; on a CPU also "int8" (weights of 8 bits: half the bytes to
            read per token, hardly any loss) or "int8a8" (activations, too: see `load_target`).
        drafter_dtype: the same for a drafter checkpoint; None: the checkpoint's own, whatever the target's.
        device: "auto", "cpu", "cuda", ...
        k: drafted depths; default: the drafter's own. With several, k and tree hold for all that draft.
        tree: a TreeSpec or "chain", "best-first:NODES", "medusa", FILE.json; default: the drafter's own.
        max_batch: most sequences decoded together; further ones wait for a free slot.
        max_length: longest sequence, prompt and new tokens together; default: the model's limit, at most 8192.
        prefill_chunk: prompt tokens taken in per step.
        loop: how rounds are driven: "eager", "run_ahead", "while" or "auto"; see `pspec_rt.loop`.
        simulate_acceptance: accept drafts with this probability whatever they are, to measure speed; see `Engine`.
        ignore_generation_config: load although generation_config.json asks for something unsupported, without it.
        progress: show a progress bar while loading.

    Not thread-safe: use one Generator per thread, or a lock. Loaded `Target` objects are read-only and may be shared.

    Raises:
        CheckpointError, DrafterMismatchError, ConfigError: options that are wrong or do not fit. What only an engine
            finds out (a tree too wide for a draft vocabulary, a loop that cannot be captured, too little memory) is
            raised by the first `generate`.
    """

    def __init__(
        self,
        target: str | Path | Target,
        drafter: Spec = AUTO,
        *,
        drafters: Sequence[Spec] | None = None,
        dtype: str | torch.dtype = "auto",
        drafter_dtype: str | torch.dtype | None = None,
        device: str | torch.device = "auto",
        k: int | None = None,
        tree: TreeSpec | str | None = None,
        max_batch: int = 8,
        max_length: int | None = None,
        prefill_chunk: int = 128,
        loop: str = "auto",
        simulate_acceptance: float | None = None,
        ignore_generation_config: bool = False,
        progress: bool = False,
    ) -> None:
        self.loop, self.simulate_acceptance = check_loop(loop), simulate_acceptance
        if not isinstance(target, Target):
            target = load_target(
                target,
                dtype=dtype,
                device=device,
                progress=progress,
                ignore_generation_config=ignore_generation_config,
            )
        self.target = target
        self.tokenizer = _tokenizer_of(target)
        members = find_members(target, drafter, drafters, drafter_dtype, k, tree)
        self.drafter, self.tree = members[0].drafter, members[0].tree  # of several, the first
        limit = target.config.max_positions
        self.max_length = min(limit, DEFAULT_MAX_LENGTH) if max_length is None else max_length
        check_length(self.max_length, limit)
        check_counts(max_batch, prefill_chunk)
        if simulate_acceptance is not None:
            for member in members:
                check_simulation(simulate_acceptance, drafts=member.drafter is not None)
        self.max_batch = max_batch
        self.team = Team(
            target, members, max_length=self.max_length, prefill_chunk=prefill_chunk, loop=loop,
            simulate_acceptance=simulate_acceptance,
        )  # fmt: skip

    @property
    def choices(self) -> list[Choice]:
        """What every drafter has done so far: sequences served, their statistics, tokens per second."""
        return self.team.choices()

    # -- generating ----------------------------------------------------------------------------------------------

    @overload
    def generate(self, prompts: Prompt, *, stream: Literal[False] = ..., **options: Any) -> GenerationOutput: ...
    @overload
    def generate(
        self, prompts: Sequence[Prompt], *, stream: Literal[False] = ..., **options: Any
    ) -> list[GenerationOutput]: ...
    @overload
    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, stream: Literal[True], **options: Any
    ) -> Iterator[StreamChunk]: ...

    def generate(  # type: ignore[misc]  # the overloads leave the keywords, listed here, to **options
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | Sequence[int] | None = None,
        n: int = 1,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        stream: bool = False,
    ) -> GenerationOutput | list[GenerationOutput] | Iterator[StreamChunk]:
        """Continue one prompt or several.

        Args:
            prompts: a text, a list of chat messages ({"role", "content"}), a list of token ids, or a list of such.
            max_new_tokens: most new tokens per sequence.
            temperature, top_k, top_p, min_p: None takes the checkpoint's generation_config, else greedy / off.
            seed: one for all (sequence i uses a hash of seed and i) or one per prompt; None draws one. The token at
                position t depends on the seed, t and the logits only: the same seed gives the same text with any
                drafter, tree and batch.
            n: samples per prompt.
            stop: strings that end a text; they are not part of it.
            stop_token_ids: ids that end a sequence besides the model's own; ignore_eos drops the model's own.
            logprobs: report the log-probability of every token and of the `logprobs` most likely ones.
            stream: yield `StreamChunk`s as text comes.

        Returns:
            A GenerationOutput for one prompt with n=1; a list ordered by prompt, then sample, otherwise; an iterator of
            StreamChunk if `stream`. On KeyboardInterrupt what was generated is returned, marked "interrupted".

        Raises:
            RequestError: anything wrong with the request, before work starts.
        """
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        sampling = self._sampling(temperature, top_k, top_p, min_p)
        many, batch = _as_batch(prompts)
        if not isinstance(n, int) or n < 1:
            raise RequestError(f"n={n!r}: expected an int >= 1")
        seeds = _seeds(seed, len(batch), n)
        if stops and self.tokenizer is None:
            raise RequestError("stop strings need a tokenizer, and this target has none: use stop_token_ids")
        sequences = []
        for i, prompt in enumerate(batch):
            prompt_ids = self.encode(prompt)
            for j in range(n):
                given, derived = seeds[i * n + j]
                params = SamplingParams(
                    max_new_tokens, **sampling, seed=derived, stop=stops, stop_token_ids=tuple(stop_token_ids),
                    ignore_eos=ignore_eos, logprobs=logprobs,
                )  # fmt: skip
                text = TextStream(StreamDecoder(self.tokenizer) if self.tokenizer else None, stops)
                report: list[TokenLogprob] | None = None if logprobs is None else []
                sequences.append(_Sequence(i, j, prompt_ids, params, given, text, logprobs=report))
        slots = self._slots(sequences)
        _, engine = self.team.start_turn(slots)
        for sequence in sequences:
            engine.check(sequence.prompt_ids, sequence.params)
        chunks = self._run(sequences)
        if stream:
            return chunks
        outputs = [chunk.output for chunk in chunks if chunk.output is not None]
        outputs.sort(key=lambda output: (output.prompt_index, output.sample_index))
        return outputs if many or n > 1 else outputs[0]

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text, of chat messages (through the chat template), or ids as they are."""
        kind = _kind(prompt)
        if kind == "ids":
            return [int(i) for i in prompt]  # type: ignore[arg-type]
        if self.tokenizer is None:
            raise RequestError("this target has no tokenizer: give the prompt as token ids")
        return self.tokenizer.encode_chat(prompt) if kind == "chat" else self.tokenizer.encode(prompt)  # type: ignore[arg-type]

    # -- running -------------------------------------------------------------------------------------------------

    def _run(self, sequences: list[_Sequence]) -> Iterator[StreamChunk]:
        """Decode them in turns: one drafter, with its engine, takes sequences in for as long as it stays the choice."""
        slots, waiting = self._slots(sequences), deque(sequences)
        running: dict[int, _Sequence] = {}
        try:
            while waiting or running:
                if not running:  # a turn starts; the first when the first chunk is asked for: a stream may start late
                    member, engine = self.team.start_turn(slots)
                while waiting and engine.free_slots and self.team.pick(slots) is member:
                    sequence = waiting[0]  # it leaves the queue once it is safe: an interrupt may come any time
                    if sequence.params.max_new_tokens > 0:
                        running[engine.add(sequence.prompt_ids, sequence.params)] = sequence
                    waiting.popleft()
                    if sequence.params.max_new_tokens == 0:
                        yield _last_chunk(sequence, "length", Stats(prompt_tokens=len(sequence.prompt_ids)))
                if not running:
                    continue  # another stream may have entered this engine: its rounds are its own
                for output in engine.step():
                    sequence = running[output.slot]
                    reason = _take_in(sequence, output)
                    if reason is not None:
                        del running[output.slot]
                        yield self._finish(sequence, reason, member, engine, output.slot)
                    elif output.token_ids:
                        yield _chunk(sequence)
        except KeyboardInterrupt:
            log.warning("interrupted: returning what was generated")
            not_started = [s for s in waiting if all(s is not other for other in running.values())]
            for slot in list(running):
                running[slot].text.finish()
                yield self._finish(running.pop(slot), "interrupted", member, engine, slot)
            for sequence in not_started:
                yield _last_chunk(sequence, "interrupted", Stats(prompt_tokens=len(sequence.prompt_ids)))
        finally:
            for slot in running:
                self.team.note(member, slots, engine.release(slot))

    def _finish(self, sequence: _Sequence, reason: str, member: Member, engine: Engine, slot: int) -> StreamChunk:
        """The last chunk of a sequence; who drafts next may depend on how fast it was."""
        chunk = _last_chunk(sequence, reason, engine.release(slot))
        assert chunk.output is not None, "it is the last"
        self.team.note(member, engine.max_batch, chunk.output.stats)
        return chunk

    def _slots(self, sequences: Sequence[_Sequence]) -> int:
        """As many as are useful."""
        return max(1, min(len(sequences), self.max_batch))

    def _sampling(
        self, temperature: float | None, top_k: int | None, top_p: float | None, min_p: float | None
    ) -> dict[str, Any]:
        """What the request says, else generation_config.json, else greedy without filters."""
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        defaults = self.target.defaults
        if not defaults.do_sample and temperature is None:
            given["temperature"] = 0.0
        for name, neutral in {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}.items():
            if given[name] is None:
                stated = getattr(defaults, name) if defaults.do_sample else None
                given[name] = neutral if stated is None else stated
        return given


def _tokenizer_of(target: Target) -> Tokenizer | None:
    """The tokenizer beside the weights; None if the folder holds none (prompts are token ids then)."""
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return Tokenizer(target.path) if any((target.path / name).exists() for name in names) else None


def _take_in(sequence: _Sequence, output: StepOutput) -> str | None:
    """Add a round's tokens to a sequence, up to a stop string; returns the finish reason, None while it runs."""
    ids, reason = output.token_ids, output.finish_reason
    ended_by_id = reason == "stop"  # the last id is an end token: never shown
    used, stopped = sequence.text.feed(ids[:-1] if ended_by_id else ids)
    if stopped:
        reason = "stop"
    else:
        used = len(ids)
        if reason is not None and sequence.text.finish():
            reason = "stop"
    sequence.last_round = (len(ids), used)
    sequence.token_ids += ids[:used]
    sequence.draft_accepted += [i < len(ids) - 1 for i in range(used)]
    if sequence.logprobs is not None and output.logprobs is not None:
        sequence.logprobs += output.logprobs[:used]
    return reason


def _chunk(sequence: _Sequence) -> StreamChunk:
    """What is new of a sequence since its last chunk."""
    text = sequence.text.text[sequence.reported_text :]
    ids = sequence.token_ids[sequence.reported_tokens :]
    accepted = sequence.draft_accepted[sequence.reported_tokens :]
    sequence.reported_text, sequence.reported_tokens = len(sequence.text.text), len(sequence.token_ids)
    return StreamChunk(sequence.prompt_index, sequence.sample_index, text, ids, accepted)


def _last_chunk(sequence: _Sequence, reason: str, stats: Stats) -> StreamChunk:
    """The rest of a sequence, with its output."""
    stats.cut_last_round(*sequence.last_round)
    chunk = _chunk(sequence)
    chunk.output = GenerationOutput(
        sequence.text.text, sequence.token_ids, reason, stats, sequence.prompt_index, sequence.sample_index,
        sequence.seed, sequence.logprobs, sequence.draft_accepted,
    )  # fmt: skip
    return chunk


def _kind(prompt: Any) -> Literal["text", "chat", "ids", "many"]:
    if isinstance(prompt, str):
        return "text"
    if isinstance(prompt, torch.Tensor):
        return "ids" if prompt.dim() == 1 else "many"
    if not isinstance(prompt, Sequence):
        raise RequestError(f"a prompt is a text, chat messages or token ids, not {type(prompt).__name__}")
    if not prompt:
        return "ids"
    if all(isinstance(item, Mapping) for item in prompt):
        return "chat"
    if all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        return "ids"
    return "many"


def _as_batch(prompts: Any) -> tuple[bool, list[Prompt]]:
    """Whether several prompts were given, and the prompts as a list."""
    if _kind(prompts) != "many":
        return False, [prompts]
    batch = list(prompts)
    nested = [i for i, prompt in enumerate(batch) if _kind(prompt) == "many"]
    if nested:
        raise RequestError(f"prompt {nested[0]} is neither a text, nor chat messages, nor token ids")
    return True, batch


def _seeds(seed: int | Sequence[int] | None, prompts: int, n: int) -> list[tuple[int, int]]:
    """(seed as given, seed used) of every sequence."""
    if seed is None:
        seed = secrets.randbits(63)
    if isinstance(seed, int):
        return [(seed, derive_seed(seed, index)) for index in range(prompts * n)]
    if len(seed) != prompts or not all(isinstance(s, int) for s in seed):
        raise RequestError(f"seed: expected one int, or a list of {prompts} ints (one per prompt), got {seed!r}")
    return [(s, derive_seed(s, j)) for s in seed for j in range(n)]
