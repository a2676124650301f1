"""Section e: time of a round by phase, Llama-3.1-8B shapes with random weights, acceptance simulated on the device.

The text of random weights means nothing and would accept no draft; hence the engine's `simulate_acceptance`. Times are
of the real kernels; tokens per round and per second are simulated, and every number of them says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.ops._bench import Model
from pspec_rt.drafters.base import Drafter
from pspec_rt.drafters.lm import ParallelLMDrafter
from pspec_rt.drafters.new import init_drafter
from pspec_rt.engine import Engine
from pspec_rt.measure.bandwidth import weight_bytes
from pspec_rt.models.config import GenerationDefaults, ModelConfig
from pspec_rt.models.decoder import Decoder
from pspec_rt.models.rope import RopeConfig
from pspec_rt.models.target import Target, decoder_pieces, empty_decoder
from pspec_rt.state import RUNNING, DecodeState
from pspec_rt.step import decode_round
from pspec_rt.tree import TreeSpec

from .memory import read_bandwidth
from .run import Job
from .shapes import LLAMA_1B, LLAMA_8B, TINY
from .timing import captured

ACCEPTANCE = 0.8  # conditional probability that a drafted token is accepted, simulated
ROUNDS = 40
MAX_POSITIONS = 1 << 17
PHASES = ("draft", "verify", "rest")


@dataclass(frozen=True)
class Setup:
    """One line of the table; `make` gives the drafter, or None for plain decoding."""

    name: str
    tree: TreeSpec | None
    prefix: int
    make: Callable[[], Drafter | None]


def random_target(m: Model, device: str) -> Target:
    """A target of these shapes whose weights are made on the device."""
    config = ModelConfig(
        architecture="LlamaForCausalLM", vocab_size=m.V, hidden_size=m.M, num_layers=m.L, num_heads=m.H,
        num_kv_heads=m.G, head_dim=m.E, intermediate_size=m.I, rms_norm_eps=1e-5, tie_word_embeddings=m is LLAMA_1B,
        qkv_bias=False, o_bias=False, mlp_bias=False, qk_norm=False, windows=(0,) * m.L, max_positions=MAX_POSITIONS,
        rope=RopeConfig(theta=500_000.0),
    )  # fmt: skip
    decoder = empty_decoder(config, torch.bfloat16, torch.device(device))
    for name, tensor in decoder_pieces(decoder).items():
        tensor.fill_(1) if name.endswith("norm.weight") else tensor.normal_(0, 0.02)
    place = Path(f"{m.name}-random")
    return Target(m.name, place, config, decoder, GenerationDefaults(), torch.bfloat16, torch.device(device))


def setups(target: Target, job: Job) -> list[Setup]:
    """What is measured, the most telling first."""
    K, D = (2, 32) if job.small else (8, 32000)
    prefixes = (16,) if job.small else (1024, 8192)
    head = cached(lambda: init_drafter("parallelspec-eagle", target, K, draft_vocab=D, parts=("head",)))
    sizes = (4,) if job.small else (16, 32, 64)
    found = []
    for prefix in prefixes:
        found.append(Setup("plain", None, prefix, lambda: None))
        found += [
            Setup(f"head, K = {K}, tree of {N}", TreeSpec.best_first(K, N), prefix, head)
            for N in (sizes if prefix == prefixes[0] else sizes[:1])
        ]
        lm_k = 3 if job.small else 12
        small = TINY if job.small else LLAMA_1B
        pard = cached(lambda k=lm_k, m=small: pard_drafter(target, m, k))  # type: ignore[misc]
        found.append(Setup(f"PARD shape of {small.name}, chain of {lm_k}", TreeSpec.chain(lm_k), prefix, pard))
    return found


def cached(make: Callable[[], Drafter]) -> Callable[[], Drafter]:
    """`make`, called once."""
    made: list[Drafter] = []

    def get() -> Drafter:
        if not made:
            made.append(make())
        return made[0]

    return get


def pard_drafter(target: Target, m: Model, k: int) -> Drafter:
    """A parallel LM drafter of these shapes over the target's vocabulary."""
    model = random_target(m, str(target.device))
    return ParallelLMDrafter(model, {}, target.config, k, mask_id=m.V - 1)


def run(job: Job, report: dict[str, Any]) -> None:
    """Fill the section's report."""
    read = read_bandwidth(job.device, 1 << 20 if job.small else 4 << 30)
    target = random_target(TINY if job.small else LLAMA_8B, job.device)
    report |= {"read_gb_per_s": read, "simulated_acceptance": ACCEPTANCE, "complete": True}
    for setup in setups(target, job):
        if job.time_left() < 12 and not job.small:
            report["complete"] = False
            break
        report["lines"].append(measure(setup, target, job, read))
    report["summary"] = summary(report["lines"])


@torch.inference_mode()
def measure(setup: Setup, target: Target, job: Job, read: float) -> dict[str, Any]:
    """One line: milliseconds by phase, their floor, and what simulated acceptance makes of them."""
    drafter, rounds = setup.make(), 2 if job.small else ROUNDS
    most = setup.prefix + (rounds + 8) * ((setup.tree.k if setup.tree else 0) + 1)
    simulated = {"simulate_acceptance": ACCEPTANCE} if drafter else {}
    engine = Engine(target, drafter, max_length=most, tree=setup.tree, loop="eager", **simulated)
    state = engine.state
    fill(state, setup.prefix)
    timer = RoundTimer(state, engine.decoder, drafter, job.device)
    lines = [timer.run() for _ in range(rounds)]
    tokens = (int(state.length_B[0]) - timer.first_length) / rounds
    phases = {phase: median(line[phase] for line in lines) for phase in PHASES}
    ms = median(sum(line.values()) for line in lines)
    weights = weight_bytes(target.decoder) + (drafter.nbytes if drafter else 0)
    cache = state.cache.nbytes * setup.prefix // state.cache.capacity
    floor = (weights + cache) / read / 1e6
    return {
        "setup": setup.name, "prefix": setup.prefix, "nodes": state.shape.N,
        **{f"{phase}_ms": value for phase, value in phases.items()},
        "round_ms": ms, "floor_ms": floor, "of_floor": floor / ms, "captured": timer.graph is not None,
        "backends": engine.backends, "simulated_tokens_per_round": tokens,
        "simulated_tokens_per_s": 1e3 * tokens / ms,
    }  # fmt: skip


def fill(state: DecodeState, prefix: int) -> None:
    """A slot in the middle of a text of random tokens."""
    state.length_B.fill_(prefix)
    state.limit_B.fill_(1 << 30)
    state.finished_B.fill_(RUNNING)
    state.tokens_BS[:, :prefix].random_(0, state.shape.V)
    state.bonus_B.copy_(state.tokens_BS[:, prefix - 1])
    state.count_B.fill_(1)
    state.emitted_BP[:, 0] = state.bonus_B
    state.features_BPF.normal_()
    state.cache.kv_L2BGSE.normal_()
    if state.drafter is not None:
        state.drafter.cache.kv_L2BGSE.normal_()


class RoundTimer:
    """Rounds replayed from one CUDA graph, with events between the phases; on a CPU, rounds and the clock."""

    def __init__(self, state: DecodeState, decoder: Decoder, drafter: Drafter | None, device: str) -> None:
        self.round, self.on_gpu = (state, decoder, drafter), device == "cuda"
        self.ends: list[Any] = []
        self.graph = None
        if self.on_gpu:
            self.graph = captured(self._round, warm=self._round)
        self.first_length = int(state.length_B[0])

    def run(self) -> dict[str, float]:
        """Milliseconds by phase of one round."""
        if self.graph is None:
            self._round()
            return {phase: 1e3 * (end - begin) for phase, begin, end in zip(PHASES, self.ends, self.ends[1:])}  # noqa: B905
        self.graph.replay()
        torch.cuda.synchronize()
        return {phase: begin.elapsed_time(end) for phase, begin, end in zip(PHASES, self.ends, self.ends[1:])}  # noqa: B905

    def _round(self) -> None:
        self.ends = [self._now()]
        decode_round(*self.round, self._mark)

    def _mark(self, phase: str) -> None:
        self.ends.append(self._now())

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, external=True)  # external: a node of the graph that is captured
        event.record()
        return event


def summary(lines: list[dict[str, Any]]) -> list[str]:
    """A line each, and how much more many rows cost to verify than one."""
    found = []
    plain = {line["prefix"]: line for line in lines if line["setup"] == "plain"}
    for line in lines:
        text = f"{line['setup']}, prefix {line['prefix']}: {line['round_ms']:.2f} ms a round ({line['of_floor']:.0%} of"
        text += " its floor), " + ", ".join(f"{phase} {line[f'{phase}_ms']:.2f}" for phase in PHASES)
        base = plain.get(line["prefix"])
        if base is not None and base is not line:
            faster = line["simulated_tokens_per_s"] / base["simulated_tokens_per_s"]
            text += f"; verify x {line['verify_ms'] / base['verify_ms']:.2f} of one row"
            text += f"; {line['simulated_tokens_per_round']:.1f} tokens a round, x {faster:.2f} (SIMULATED acceptance)"
        found.append(text)
    return found
