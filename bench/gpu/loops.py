"""Section f: what driving rounds costs: a WHILE iteration, the gaps between rounds, tokens per second per loop.

Llama-3.1-8B shapes with random weights and simulated acceptance (every such number says so); with `--target DIR` also
that checkpoint's own text, which must be the same in every loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from pspec_rt import ops
from pspec_rt.capture import capture
from pspec_rt.engine import Engine
from pspec_rt.generator import Generator
from pspec_rt.models.target import Target
from pspec_rt.ring import Ring
from pspec_rt.sampling import SamplingParams

from .rounds import Setup, measure, random_target, setups
from .run import Job
from .shapes import LLAMA_8B, TINY

LOOPS = ("eager", "run_ahead", "while")
FILLERS = (0, 1, 200)  # kernels in the body besides the one that publishes
LENGTHS = (3.0, 4.0, 5.0)  # tokens per round, simulated
PROMPTS = ("Write a Python function that merges two sorted lists.", "Why is the sky blue?", "Tell a story about a fox.")


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report."""
    report["lines"] += [iteration(n, job) for n in FILLERS]
    if job.target is not None:
        report["lines"] += checkpoint_lines(job)
    target = random_target(TINY if job.small else LLAMA_8B, job.device)
    prefix = 16 if job.small else 1024
    for setup in [s for s in setups(target, job) if s.prefix == prefix]:
        if job.time_left() < 12 and not job.small:
            report["complete"] = False
            break
        report["lines"] += simulated_lines(setup, target, job)
    report["summary"] = [summary(line) for line in report["lines"]]


# -- the cost of an iteration -----------------------------------------------------------------------------------------


def iteration(fillers: int, job: Job) -> dict[str, Any]:
    """Microseconds of one iteration of a body of `fillers` tiny kernels and the publishing one: looped and replayed."""
    device, rounds = torch.device(job.device), 4 if job.small else 64
    ring = Ring(1, 1, 128, device)
    launches = _body(fillers, ring, device)
    launches()  # compiled and loaded before the capture
    ring.take()
    body = capture(launches, device)
    looped = _per_round(lambda: (ring.start_burst(rounds), body.burst(ring)), rounds, ring, job)
    # start_burst also forgets the loop node, which a replay outside its graph must not tell anything.
    replayed = _per_round(lambda: (ring.start_burst(rounds), [body.replay() for _ in range(rounds)]), rounds, ring, job)
    return {"what": "iteration", "fillers": fillers, "while_us": looped, "replay_us": replayed}


def _body(fillers: int, ring: Ring, device: torch.device) -> Callable[[], None]:
    def int32(*size: int, fill: int = 0) -> torch.Tensor:
        return torch.full(size, fill, dtype=torch.int32, device=device)

    small_R2I, out_RI = torch.randn(1, 64, device=device), torch.zeros(1, 32, device=device)
    tree = (int32(1, 1, fill=5), int32(1, 1, fill=-1), int32(1, 1, fill=7))
    slot = (int32(1, 1, fill=-1), int32(1, fill=1 << 30), int32(1, fill=1), int32(1), int32(1), int32(1, 1 << 16))
    out = (int32(1, 1), int32(1, 1), int32(1))

    def launches() -> None:
        for _ in range(fillers):
            ops.silu_mul(small_R2I, out_RI)
        ops.accept(*tree, *slot, *out, ring=ring)

    return launches


def _per_round(launch: Callable[[], object], rounds: int, ring: Ring, job: Job) -> float:
    """Median microseconds per round of `launch`, by the clock in the records of its last rounds."""
    found = []
    for _ in range(2 if job.small else 7):
        launch()
        clocks = [_next(ring).clock_ns for _ in range(rounds)]
        found.append((clocks[-1] - clocks[0]) / (rounds - 1) / 1e3)
    return median(found)


def _next(ring: Ring) -> Any:
    while not ring.wait(0.1):
        if ring.control_C.is_cuda:
            torch.cuda.current_stream().query()  # raises what went wrong on the device
    return ring.take()


# -- whole rounds -----------------------------------------------------------------------------------------------------


def simulated_lines(setup: Setup, target: Target, job: Job) -> list[dict[str, Any]]:
    """Every loop at every simulated length (plain decoding has none): round time, tokens per second, idle share.

    Idle is what a round takes beyond the time of its kernels, which section rounds measures inside a graph.
    """
    drafter = setup.make()
    lines: list[dict[str, Any]] = []
    busy_ms = measure(setup, target, job, read=1.0)["round_ms"]
    for length in LENGTHS if drafter else (1.0,):
        options = {"simulate_acceptance": probability(length, setup.tree.k)} if drafter and setup.tree else {}
        for loop in LOOPS if length == LENGTHS[-1] or not drafter else LOOPS[1:]:
            rounds = 6 if job.small else 48
            most = setup.prefix + (rounds + 8) * ((setup.tree.k if setup.tree else 0) + 1)
            engine = Engine(target, drafter, max_length=most, tree=setup.tree, loop=loop, **options)
            found = drive(engine, setup.prefix, rounds)
            found |= {"busy_ms": busy_ms, "idle": max(0.0, 1 - busy_ms / found["round_ms"])}
            line = {"what": "rounds", "setup": setup.name, "loop": engine.loop_note, "simulated": bool(options)}
            lines.append(line | found)
            del engine  # its cache, before the next one's
    return lines


def drive(engine: Engine, prefix: int, rounds: int) -> dict[str, Any]:
    """Decode `rounds` rounds after a random prompt, the first four not timed."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, engine.target.config.vocab_size, (prefix,), generator=generator).tolist()
    assert engine.max_length is not None
    slot = engine.add(prompt, SamplingParams(engine.max_length - prefix, ignore_eos=True))
    seen, tokens, start = 0, 0, 0.0
    while seen < rounds:
        for output in engine.step():
            seen += 1
            tokens += len(output.token_ids) if seen > 4 else 0
            start = time.perf_counter() if seen == 4 else start
            if output.finish_reason:
                rounds = seen
    seconds = time.perf_counter() - start
    stats = engine.release(slot)
    timed = max(1, seen - 4)
    return {
        "round_ms": 1e3 * seconds / timed, "tokens_per_round": tokens / timed, "tokens_per_s": tokens / seconds,
        "mean_acceptance_length": stats.mean_acceptance_length,
    }  # fmt: skip


def probability(length: float, k: int) -> float:
    """The constant conditional acceptance p with 1 + p + .. + p^k = length."""
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if sum(p**i for i in range(k + 1)) < length else (low, p)
    return min(max(low, 1e-6), 1 - 1e-6)


# -- a real checkpoint ------------------------------------------------------------------------------------------------


def checkpoint_lines(job: Job) -> list[dict[str, Any]]:
    """Tokens per second of `--target`'s own text, plain and with n-gram lookup, in every loop; all texts equal."""
    lines, texts = [], set()
    target: Any = str(job.target)
    for drafter in (None, "ngram"):
        for loop in LOOPS:
            generator = Generator(target, drafter, device=job.device, loop=loop, max_length=2048)
            target = generator.target
            options = {"max_new_tokens": 8 if job.small else 128, "temperature": 0.0, "ignore_eos": True}
            generator.generate(PROMPTS[0], **options)  # captured and compiled
            outputs = [generator.generate(prompt, **options) for prompt in PROMPTS]
            texts.add(tuple(tuple(output.token_ids) for output in outputs))
            tokens, seconds = (sum(getattr(o.stats, name) for o in outputs) for name in ("new_tokens", "decode_s"))
            lines.append({"what": "checkpoint", "drafter": drafter or "none", "loop": outputs[0].stats.loop,
                          "tokens_per_s": tokens / seconds})  # fmt: skip
    assert len(texts) == 1, "the loops gave different texts"
    return lines


def summary(line: dict[str, Any]) -> str:
    """A line of text."""
    if line["what"] == "iteration":
        return (
            f"body of {line['fillers']} + 1 kernels: {line['while_us']:.1f} us an iteration of WHILE, "
            f"{line['replay_us']:.1f} us a replay"
        )
    if line["what"] == "checkpoint":
        return f"checkpoint, drafter {line['drafter']}, {line['loop']}: {line['tokens_per_s']:.0f} tok/s, text equal"
    text = f"{line['setup']}, {line['loop']}: {line['round_ms']:.2f} ms a round ({line['idle']:.1%} idle), "
    text += f"{line['tokens_per_s']:.0f} tok/s"
    return text + (f" at {line['tokens_per_round']:.2f} tokens a round (SIMULATED)" if line["simulated"] else "")
