"""draft_forward in plain PyTorch: one layer between the inputs and the head of a feature drafter, op by op."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .add_rms_norm import add_rms_norm
from .draft_inputs import draft_inputs
from .gather_features import gather_features
from .head_top_k import head_top_k
from .linear import linear
from .rope_append import rope_append
from .tree_attention import tree_attention


@dataclass(frozen=True)
class DraftHead:
    """Weights of a feature drafter of one layer, X = (H+2G)*E, W = Z + F with embeddings of width Z.

    Attributes:
        fc_MW, fc_bias_M, table_VZ: as in `ops.draft_inputs`.
        input_norm_M, qkv_XM, o_MO, post_norm_M, gate_up_2IM, down_MI: of the layer.
        norm_M, head_DM: final norm and output head.
        cos_SE, sin_SE: [positions, E/2] fp32.
        eps: of the norms.
    """

    fc_MW: Tensor
    fc_bias_M: Tensor | None
    table_VZ: Tensor | None
    input_norm_M: Tensor
    qkv_XM: Tensor
    o_MO: Tensor
    post_norm_M: Tensor
    gate_up_2IM: Tensor
    down_MI: Tensor
    norm_M: Tensor
    head_DM: Tensor
    cos_SE: Tensor
    sin_SE: Tensor
    eps: float


def draft_forward(
    head: DraftHead,
    ids_BP: Tensor,
    features_BPF: Tensor,
    mask_inputs_JM: Tensor,
    positions_BN: Tensor,
    prefix_B: Tensor,
    words_BN: Tensor,
    take_BK: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    out_ids_RC: Tensor,
    out_scores_RC: Tensor,
    *,
    temperature_R: Tensor | None = None,
    noise_QV: Tensor | None = None,
    noise_row_R: Tensor | None = None,
    id_map_D: Tensor | None = None,
) -> None:
    """The ops of the pass one after another; see `pspec_rt.ops.draft_forward`."""
    (B, N), (G, E), M = positions_BN.shape, (k_BGSE.shape[1], k_BGSE.shape[3]), head.norm_M.shape[0]
    H = head.o_MO.shape[1] // E
    new = head.fc_MW.new_empty
    residual_BNM, qkv_RX, q_BNHE = new(B, N, M), new(B * N, (H + 2 * G) * E), new(B, N, H, E)
    attn_BNHE, mlp_RI, hidden_RM = torch.empty_like(q_BNHE), new(B * N, head.down_MI.shape[1]), new(B * N, M)
    predicting_BKM = new(B, take_BK.shape[1], M)
    residual_RM, eps = residual_BNM.view(B * N, M), head.eps
    draft_inputs(
        ids_BP, features_BPF, prefix_B, mask_inputs_JM, head.fc_MW, residual_BNM,
        table_VM=head.table_VZ, bias_M=head.fc_bias_M,
    )  # fmt: skip
    linear(residual_RM, head.qkv_XM, qkv_RX, norm_I=head.input_norm_M, eps=eps)
    rope_append(qkv_RX, positions_BN, prefix_B, head.cos_SE, head.sin_SE, k_BGSE, v_BGSE, q_BNHE)
    tree_attention(q_BNHE, k_BGSE, v_BGSE, prefix_B, words_BN, attn_BNHE, scale=E**-0.5)
    linear(attn_BNHE.view(B * N, H * E), head.o_MO, residual_RM, add=True)
    linear(residual_RM, head.gate_up_2IM, mlp_RI, norm_I=head.post_norm_M, eps=eps, gated=True)
    linear(mlp_RI, head.down_MI, residual_RM, add=True)
    add_rms_norm(None, residual_RM, head.norm_M, eps, hidden_RM)
    gather_features(hidden_RM, take_BK, predicting_BKM)
    noise = {"temperature_R": temperature_R, "noise_QV": noise_QV, "noise_row_R": noise_row_R}
    head_top_k(predicting_BKM.flatten(0, 1), head.head_DM, out_ids_RC, out_scores_RC, **noise, id_map_D=id_map_D)
