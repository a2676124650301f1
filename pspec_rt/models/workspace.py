"""Workspace: the activation buffers of a decoder stack, allocated once and used by every layer."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..ops._graph import LaunchGraphs
from .config import ModelConfig


@dataclass(frozen=True)
class Rows:
    """The first R rows of every buffer of a workspace (contiguous views)."""

    residual_RM: Tensor  # the residual stream
    hidden_RM: Tensor  # after the final norm
    qkv_RX: Tensor  # [R, (H+2G)*E]
    q_RHE: Tensor  # queries after RoPE
    attn_RHE: Tensor  # attention output
    mlp_RI: Tensor  # silu(gate) * up
    graphs: LaunchGraphs  # recorded passes over these buffers


_BUFFERS = tuple(field.name for field in fields(Rows) if field.name != "graphs")


class Workspace:
    """Buffers for up to `rows` rows; `rows(R)` gives the views of the first R, made once per R.

    Args:
        config: sizes of the stack.
        rows: most rows of a pass (max of B*N and of the prefill chunk).
    """

    def __init__(
        self, config: ModelConfig, rows: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        def empty(*size: int) -> Tensor:
            return torch.empty(rows, *size, dtype=dtype, device=device)

        M, H, E, I = config.hidden_size, config.num_heads, config.head_dim, config.intermediate_size
        self.max_rows = rows
        self.residual_RM, self.hidden_RM = empty(M), empty(M)
        self.qkv_RX, self.q_RHE, self.attn_RHE = empty(config.qkv_width), empty(H, E), empty(H, E)
        self.mlp_RI = empty(I)
        self._views: dict[int, Rows] = {}

    def rows(self, R: int) -> Rows:
        """Views of the first R rows."""
        views = self._views.get(R)
        if views is None:
            assert 0 < R <= self.max_rows, f"workspace holds {self.max_rows} rows, {R} asked for"
            views = Rows(**{name: getattr(self, name)[:R] for name in _BUFFERS}, graphs=LaunchGraphs())
            self._views[R] = views
        return views

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in _BUFFERS)
