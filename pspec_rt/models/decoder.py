"""The decoder of the Llama family: Stack (layers, shared with drafters) and Decoder (a model)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..kv_cache import KVCache
from ..ops._graph import address, all_native
from ..quantize import Weight
from .config import ModelConfig
from .layers import LayerWeights
from .rope import Rope
from .workspace import Rows, Workspace

# (q_BNHE, k_BGSE, v_BGSE, out_BNHE, window): attention of one layer over the cache.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], None]


@dataclass(frozen=True)
class Taps:
    """Which hidden states go where: state `indices[j]` into columns j*M..(j+1)*M of `features_RF`.

    Indices are those of Hugging Face's `hidden_states`: 0 the embeddings, i the residual stream
    after i layers, L the last one after the final norm.
    """

    indices: tuple[int, ...] = ()
    features_RF: Tensor | None = None

    def write(self, index: int, state_RM: Tensor) -> None:
        """Keep hidden state `index`, if it is wanted."""
        if self.features_RF is None:
            return
        M = state_RM.shape[1]
        for j, wanted in enumerate(self.indices):
            if wanted == index:
                ops.store_tap(state_RM, self.features_RF, j * M)


NO_TAPS = Taps()
_PASS_OPS = ("add_rms_norm", "linear", "rope_append", "tree_attention", "store_tap")


@dataclass(frozen=True)
class _Pass:
    """One pass over the layers: where its rows stand and what they attend to."""

    B: int
    positions_BN: Tensor
    append_B: Tensor
    cache: KVCache
    attend: Attend
    exact: bool  # as in ops.linear
    first_RW: Tensor | None = None  # what the first layer's attention reads instead of the residual stream


class Stack:
    """Decoder layers with their RoPE tables, without embedding and head, so drafters use it too.

    The input is `rows.residual_RM`, written by the caller; the output is `rows.hidden_RM`.
    """

    def __init__(self, config: ModelConfig, layers: list[LayerWeights], rope: Rope) -> None:
        self.config = config
        self.layers = layers
        self.rope = rope
        self._scale = config.head_dim**-0.5

    def forward(
        self,
        rows: Rows,
        positions_BN: Tensor,
        prefix_B: Tensor,
        words_BN: Tensor,
        cache: KVCache,
        *,
        norm_M: Tensor | None = None,
        taps: Taps = NO_TAPS,
        append_B: Tensor | None = None,
        first_RW: Tensor | None = None,
    ) -> Tensor:
        """Run B*N tree rows. Capture-safe.

        Args:
            rows: workspace rows; `residual_RM` is the input and changes.
            positions_BN: [B, N] int32 RoPE positions.
            prefix_B: [B] int32; row (b, n) writes its key and value to cache row prefix_B[b] + n.
            words_BN: [B, N] int64 ancestor words; a row attends to cache rows 0..prefix-1 and to
                its word's rows.
            norm_M: final norm weight; None leaves the residual stream as it is.
            taps: hidden states to keep.
            append_B: [B] int32, cache row of row (b, 0) if the slot has rows after the prefix already; the words
                count from the prefix all the same. None: prefix_B.
            first_RW: what the first layer's attention reads instead of the residual stream.

        Returns:
            rows.hidden_RM, written.
        """
        append_B = prefix_B if append_B is None else append_B

        def attend(q_BNHE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, out_BNHE: Tensor, window: int) -> None:
            ops.tree_attention(q_BNHE, k_BGSE, v_BGSE, prefix_B, words_BN, out_BNHE, scale=self._scale, window=window)

        step = _Pass(positions_BN.shape[0], positions_BN, append_B, cache, attend, True, first_RW)
        if not self._recordable(positions_BN.device.type):
            return self._run(rows, step, norm_M, taps)
        # Everything a launch holds: one key, one sequence of launches.
        tensors = (rows.residual_RM, positions_BN, prefix_B, append_B, words_BN, cache.kv_L2BGSE, self.rope.cos_SE)
        key = (
            id(self),
            positions_BN.shape,
            cache.capacity,
            taps.indices,
            address(taps.features_RF),
            *map(address, (*tensors, norm_M, first_RW)),
        )
        rows.graphs.run(key, lambda: self._run(rows, step, norm_M, taps))
        return rows.hidden_RM

    def _recordable(self, device_type: str) -> bool:
        """Whether a pass consists of native CPU launches alone."""
        return all_native(_PASS_OPS, device_type)

    def prefill(
        self,
        rows: Rows,
        start: int,
        slot: KVCache,
        *,
        norm_M: Tensor | None = None,
        taps: Taps = NO_TAPS,
        first_RW: Tensor | None = None,
    ) -> Tensor:
        """Run positions start..start+R-1 of one slot, causally: on a CPU with the kernels of `forward`, where a row's
        bits do not depend on R, else with library GEMM and attention.

        Args:
            rows: workspace rows; `residual_RM` is the input and changes.
            start: position and cache row of the first row; rows 0..start-1 are already there.
            slot: a cache of one slot; its rows start..start+R-1 are written.
            norm_M, taps, first_RW: as in `forward`.

        Returns:
            rows.hidden_RM, written.
        """
        R, device = rows.residual_RM.shape[0], rows.residual_RM.device
        assert start + R <= slot.capacity, f"prefill of {R} rows at {start} in {slot.capacity}"
        positions_BN = torch.arange(start, start + R, dtype=torch.int32, device=device)[None]
        prefix_B = torch.full((1,), start, dtype=torch.int32, device=device)
        exact = self.prefills_exactly(device.type)
        attend = (_Chains if exact else _CausalChunk)(start, R, self._scale, device)
        step = _Pass(1, positions_BN, prefix_B, slot, attend, exact, first_RW)
        return self._run(rows, step, norm_M, taps)

    def prefills_exactly(self, device_type: str) -> bool:
        """Whether a prefilled row's bits do not depend on how many rows run with it."""
        return all_native(("linear", "tree_attention"), device_type)

    def _run(self, rows: Rows, step: _Pass, norm_M: Tensor | None, taps: Taps) -> Tensor:
        for index, layer in enumerate(self.layers):
            taps.write(index, rows.residual_RM)
            given = step.first_RW if index == 0 else None
            self._layer(layer, rows, step, *step.cache.layer(index), rows.residual_RM if given is None else given)
        if norm_M is None:
            ops.store_tap(rows.residual_RM, rows.hidden_RM, 0)
        else:
            ops.add_rms_norm(None, rows.residual_RM, norm_M, self.config.rms_norm_eps, rows.hidden_RM)
        taps.write(len(self.layers), rows.hidden_RM)
        return rows.hidden_RM

    def _layer(
        self, layer: LayerWeights, rows: Rows, step: _Pass, k_BGSE: Tensor, v_BGSE: Tensor, x_RW: Tensor
    ) -> None:
        """One layer: adds attention's output to the residual stream, then the MLP's."""
        rope, exact, eps = self.rope, step.exact, self.config.rms_norm_eps
        q_BNHE = rows.q_RHE.unflatten(0, (step.B, -1))
        attn_BNHE = rows.attn_RHE.unflatten(0, (step.B, -1))

        ops.linear(
            x_RW, layer.qkv_XM, rows.qkv_RX,
            bias_O=layer.qkv_bias_X, norm_I=layer.input_norm_M, eps=eps, exact=exact,
        )  # fmt: skip
        ops.rope_append(
            rows.qkv_RX, step.positions_BN, step.append_B,
            rope.cos_SE, rope.sin_SE, k_BGSE, v_BGSE, q_BNHE,
            q_norm_E=layer.q_norm_E, k_norm_E=layer.k_norm_E, eps=eps,
        )  # fmt: skip
        step.attend(q_BNHE, k_BGSE, v_BGSE, attn_BNHE, layer.window)
        ops.linear(rows.attn_RHE.flatten(1), layer.o_MO, rows.residual_RM, bias_O=layer.o_bias_M, add=True, exact=exact)
        ops.linear(
            rows.residual_RM, layer.gate_up_2IM, rows.mlp_RI,
            bias_O=layer.gate_up_bias_2I, norm_I=layer.post_norm_M, eps=eps, gated=True, exact=exact,
        )  # fmt: skip
        ops.linear(rows.mlp_RI, layer.down_MI, rows.residual_RM, bias_O=layer.down_bias_M, add=True, exact=exact)


class _Chains:
    """Attention of a prefill chunk as tree attention: chains of at most 64 nodes, each the next one's prefix."""

    def __init__(self, start: int, rows: int, scale: float, device: torch.device) -> None:
        self._scale = scale
        self._words_BN = torch.tensor([[(2 << i) - 1 for i in range(63)] + [-1]], device=device)
        self._prefixes = {
            first: torch.tensor([start + first], dtype=torch.int32, device=device) for first in range(0, rows, 64)
        }

    def __call__(self, q_BNHE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, out_BNHE: Tensor, window: int) -> None:
        for first, prefix_B in self._prefixes.items():
            q, out = q_BNHE[:, first : first + 64], out_BNHE[:, first : first + 64]
            words_BN = self._words_BN[:, : q.shape[1]]
            ops.tree_attention(q, k_BGSE, v_BGSE, prefix_B, words_BN, out, scale=self._scale, window=window)


def has_flash_attention(q_BNHE: Tensor) -> bool:
    """Whether torch's flash kernel takes these queries. It knows "causal", but no mask: given one, heads that share
    keys go through the plain formula, with all scores in memory.
    """
    return q_BNHE.is_cuda and q_BNHE.dtype is not torch.float32


class _CausalChunk:
    """Attention of a prefill chunk: its row i sees cache rows 0..start+i, the last `window`."""

    def __init__(self, start: int, rows: int, scale: float, device: torch.device) -> None:
        self.end, self.scale = start + rows, scale
        self._row_R1 = torch.arange(start, self.end, device=device)[:, None]
        self._masks: dict[int, Tensor] = {}  # by window

    def __call__(self, q_BNHE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, out_BNHE: Tensor, window: int) -> None:
        out_BHNE = F.scaled_dot_product_attention(
            q_BNHE.transpose(1, 2),
            k_BGSE[:, :, : self.end],
            v_BGSE[:, :, : self.end],
            attn_mask=self._mask(window, q_BNHE),
            scale=self.scale,
            enable_gqa=True,
        )
        out_BNHE.copy_(out_BHNE.transpose(1, 2))

    def _mask(self, window: int, q_BNHE: Tensor) -> Tensor:
        if window == 0 and has_flash_attention(q_BNHE):
            from torch.nn.attention.bias import causal_lower_right  # imports Triton, which other runs do without

            return causal_lower_right(len(self._row_R1), self.end)
        mask_RS = self._masks.get(window)
        if mask_RS is None:
            key_S = torch.arange(self.end, device=self._row_R1.device)
            mask_RS = key_S <= self._row_R1
            if window:
                mask_RS &= key_S > self._row_R1 - window
            self._masks[window] = mask_RS
        return mask_RS


@dataclass(frozen=True)
class Decoder:
    """A whole model: embedding, stack, final norm, head.

    Attributes:
        embed_VM: [V, M] embedding table.
        head_VM: [V, M] output head; the same tensor when tied.
        norm_M: final norm weight.
        taps: hidden states that `forward` and `prefill_chunk` write, side by side, to the features
            they are given; indices as in `Taps`.
    """

    config: ModelConfig
    embed_VM: Weight
    stack: Stack
    norm_M: Tensor
    head_VM: Weight
    taps: tuple[int, ...] = ()

    def with_taps(self, taps: tuple[int, ...]) -> Decoder:
        """The same model (same weights) with other taps; -1 counts from the end, so it is L."""
        L = self.config.num_layers
        assert all(-1 <= t <= L for t in taps), f"taps {taps}: hidden states are 0..{L}, or -1"
        return replace(self, taps=tuple(L if t == -1 else t for t in taps))

    def forward(
        self,
        ids_BN: Tensor,
        positions_BN: Tensor,
        prefix_B: Tensor,
        words_BN: Tensor,
        cache: KVCache,
        work: Workspace,
        features_RF: Tensor | None = None,
        append_B: Tensor | None = None,
    ) -> Tensor:
        """Run B*N tree rows through the model. Capture-safe.

        Args:
            ids_BN: [B, N] int32 tokens; below 0 reads row 0 (padding).
            positions_BN, prefix_B, words_BN, cache, append_B: see `Stack.forward`.
            features_RF: [B*N, num_taps*M], written with the tapped hidden states, or None.

        Returns:
            hidden_RM, the final-normed rows; a view of `work`, valid until its next use.
        """
        rows = work.rows(ids_BN.numel())
        ops.embed(ids_BN.view(-1), self.embed_VM, rows.residual_RM)
        return self.stack.forward(
            rows,
            positions_BN,
            prefix_B,
            words_BN,
            cache,
            norm_M=self.norm_M,
            taps=self._taps(features_RF),
            append_B=append_B,
        )

    def prefills_exactly(self, device_type: str) -> bool:
        """Whether a prefilled row's bits do not depend on how many rows run with it."""
        return self.stack.prefills_exactly(device_type)

    def prefill_chunk(
        self,
        ids_T: Tensor,
        start: int,
        slot: KVCache,
        work: Workspace,
        features_RF: Tensor | None = None,
    ) -> Tensor:
        """Take tokens at positions start..start+T-1 into one slot's cache.

        Args:
            ids_T: [T] int32 tokens (padding below 0).
            start: position of the first; the slot's rows 0..start-1 are already there.
            slot: a cache of one slot (`KVCache.slot`).
            features_RF: [T, num_taps*M], written with the tapped hidden states, or None.

        Returns:
            hidden_RM, the final-normed rows; a view of `work`, valid until its next use.
        """
        rows = work.rows(ids_T.numel())
        ops.embed(ids_T, self.embed_VM, rows.residual_RM)
        return self.stack.prefill(rows, start, slot, norm_M=self.norm_M, taps=self._taps(features_RF))

    def _taps(self, features_RF: Tensor | None) -> Taps:
        return NO_TAPS if features_RF is None else Taps(self.taps, features_RF)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights, a tied head counted once."""
        head = 0 if self.head_VM is self.embed_VM else self.head_VM.nbytes
        return self.embed_VM.nbytes + self.norm_M.nbytes + head + sum(layer.nbytes for layer in self.stack.layers)
