"""The verbs of a decode round: one function per op, each writing into buffers its caller owns."""

from ._dispatch import choose_backends
from .accept import accept
from .add_rms_norm import add_rms_norm
from .build_tree import build_tree
from .compact_kv import compact_kv
from .draft_inputs import draft_inputs
from .embed import embed
from .gather_features import gather_features
from .gumbel_noise import gumbel_noise
from .head_top_k import head_top_k
from .linear import linear
from .ngram_draft import ngram_draft
from .rope_append import rope_append
from .select_tokens import select_tokens
from .silu_mul import silu_mul
from .store_tap import store_tap
from .tree_attention import tree_attention

__all__ = [
    "accept",
    "add_rms_norm",
    "build_tree",
    "choose_backends",
    "compact_kv",
    "draft_inputs",
    "embed",
    "gather_features",
    "gumbel_noise",
    "head_top_k",
    "linear",
    "ngram_draft",
    "rope_append",
    "select_tokens",
    "silu_mul",
    "store_tap",
    "tree_attention",
]
