"""DecodeState: every buffer a decode round reads or writes, allocated once and owned here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .sampling import MAX_LOGPROBS, MAX_STOP_IDS, Mode
from .tree import TreeSpec, TreeTemplate

if TYPE_CHECKING:  # the state holds these, but knows nothing about them
    from .kv_cache import KVCache
    from .models.workspace import Workspace

RUNNING, STOP, LENGTH, IDLE, ERROR, CANCELLED = range(6)  # values of finished_B
FINISH_REASON = {STOP: "stop", LENGTH: "length", ERROR: "error"}


# What describes the sequences themselves, whatever tree a round drafts.
ADMITTED = ("limit_B", "stop_ids_BQ", "seed_B")
ADVANCED = (
    "tokens_BS", "length_B", "bonus_B", "finished_B", "path_BP", "emitted_BP", "count_B", "features_BPF",
)  # fmt: skip


@dataclass(frozen=True)
class RoundShape:
    """The sizes that fix every tensor shape of a round (dimension letters: see `pspec_rt.step`)."""

    B: int  # slots
    S: int  # cache rows per slot
    V: int  # target vocabulary
    F: int  # width of the tapped features, 0 if the drafter reads none
    tree: TreeSpec

    @property
    def K(self) -> int:
        return self.tree.k

    @property
    def N(self) -> int:
        return self.tree.nodes

    @property
    def C(self) -> int:
        return self.tree.candidates

    @property
    def P(self) -> int:
        return self.tree.path_slots


class DecodeState:
    """Buffers of one round, grouped by who writes them.

    Between rounds a slot is described by `length_B` (committed tokens, the newest one's KV still missing), `bonus_B`
    (that newest token), `finished_B`, and by what the last round emitted: `count_B` tokens in `emitted_BP` along the
    tree path `path_BP`, with the target's features of that path in `features_BPF`.
    """

    def __init__(
        self, shape: RoundShape, cache: KVCache, work: Workspace, dtype: torch.dtype, device: torch.device
    ) -> None:
        B, K, N, C, P = shape.B, shape.K, shape.N, shape.C, shape.P

        def int32(*size: int, fill: int = 0) -> Tensor:
            return torch.full(size, fill, dtype=torch.int32, device=device)

        def fp32(*size: int, fill: float = 0.0) -> Tensor:
            return torch.full(size, fill, dtype=torch.float32, device=device)

        self.shape, self.dtype, self.device = shape, dtype, device
        self.mode: Mode = "greedy"  # with the shape, the key of a captured round
        self.cache, self.work = cache, work
        self.template: TreeTemplate | None = shape.tree.template(device)
        self.drafter: Any = None  # the drafter family's own buffers (a dataclass of tensors)
        self.lookup: Any = None  # those of n-gram lookup beside it
        self.simulate: Callable[[DecodeState], None] | None = None  # called between verification and acceptance

        # Written at admission, constant while a request runs. Per-row copies spare the round an expansion.
        self.limit_B = int32(B, fill=1)
        self.stop_ids_BQ = int32(B, MAX_STOP_IDS, fill=-1)
        self.seed_B = torch.zeros(B, dtype=torch.int64, device=device)
        self.temperature_BN, self.temperature_BK = fp32(B, N), fp32(B, K)
        self.top_k_BN, self.top_p_BN, self.min_p_BN = int32(B, N), fp32(B, N, fill=1.0), fp32(B, N)

        # Advanced by accept.
        self.tokens_BS = int32(B, shape.S, fill=-1)
        self.length_B, self.bonus_B = int32(B, fill=1), int32(B)
        self.finished_B = int32(B, fill=IDLE)
        self.path_BP, self.emitted_BP, self.count_B = int32(B, P, fill=-1), int32(B, P, fill=-1), int32(B)
        self.features_BPF = torch.zeros(B, P, shape.F, dtype=dtype, device=device)

        # Draft.
        self.candidate_ids_BKC, self.candidate_scores_BKC = int32(B, K, C, fill=-1), fp32(B, K, C)
        self.noise_row_BK = (torch.arange(B)[:, None] * P + torch.arange(K)).to(torch.int32).to(device)

        # Tree and verification.
        self.prefix_B = int32(B)
        self.ids_BN, self.parent_BN, self.depth_BN, self.positions_BN = (int32(B, N) for _ in range(4))
        self.words_BN = torch.zeros(B, N, dtype=torch.int64, device=device)
        self.noise_row_BN = int32(B, N)
        self.features_RF = torch.zeros(B * N, shape.F, dtype=dtype, device=device) if shape.F else None
        self.target_BN = int32(B, N)

        # Only sampling needs these; empty until `reserve` is told of the first such request.
        self.noise_BPV, self.logits_RV, self.logprob_BN = fp32(0), fp32(0), fp32(0)
        self.top_ids_BNT, self.top_logprobs_BNT = int32(0), fp32(0)

    def plain_twin(self) -> DecodeState:
        """A state of the same sequences for plain rounds (N = 1): what lasts between rounds is shared.

        Rounds may alternate between the two; `path_BP` and its like keep the P of this one.
        """
        twin = DecodeState(replace(self.shape, tree=TreeSpec.plain()), self.cache, self.work, self.dtype, self.device)
        for name in ADMITTED + ADVANCED + ("drafter",):
            setattr(twin, name, getattr(self, name))
        return twin

    def reserve(self, mode: Mode) -> None:
        """Allocate the buffers a sampling mode needs, once; nothing to do if they are there."""
        B, N, P, V, device = self.shape.B, self.shape.N, self.shape.P, self.shape.V, self.device
        if mode != "greedy" and not self.noise_BPV.numel():
            self.noise_BPV = torch.zeros(B, P, V, dtype=torch.float32, device=device)
        if mode == "filtered" and not self.logits_RV.numel():
            T = min(MAX_LOGPROBS, V)
            self.logits_RV = torch.zeros(B * N, V, dtype=torch.float32, device=device)
            self.logprob_BN = torch.zeros(B, N, dtype=torch.float32, device=device)
            self.top_ids_BNT = torch.zeros(B, N, T, dtype=torch.int32, device=device)
            self.top_logprobs_BNT = torch.zeros(B, N, T, dtype=torch.float32, device=device)

    @property
    def noise_QV(self) -> Tensor:
        """[B*P, V] view of the noise, row b*P + depth."""
        return self.noise_BPV.view(-1, self.shape.V)

    def buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the state by dotted name, the cache and the drafter's included."""
        return _tensors(vars(self), "")

    def diff(self, other: DecodeState) -> str | None:
        """Name of the first buffer whose bits differ from `other`'s, with the first differing index; None if equal."""
        theirs = dict(other.buffers())
        for name, tensor in self.buffers():
            if name not in theirs or tensor.shape != theirs[name].shape:
                return f"{name}: only on one side, or of another shape"
            differs = _bits(tensor) != _bits(theirs[name])
            if differs.any():
                at = tuple(differs.nonzero()[0].tolist())
                return f"{name}{list(at)}: {tensor[at].item()} against {theirs[name][at].item()}"
        return None


def _bits(tensor: Tensor) -> Tensor:
    """The tensor as integers, so that NaN equals itself and -0.0 differs from 0.0."""
    return tensor if not tensor.is_floating_point() else tensor.view({2: torch.int16, 4: torch.int32}[tensor.itemsize])


def _tensors(owner: dict[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in owner.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif is_dataclass(value) and not isinstance(value, type) and name not in ("shape",):
            yield from _tensors({f.name: getattr(value, f.name) for f in fields(value)}, f"{prefix}{name}.")
        elif name in ("cache", "work", "rows", "drafter") and hasattr(value, "__dict__"):
            yield from _tensors(vars(value), f"{prefix}{name}.")
