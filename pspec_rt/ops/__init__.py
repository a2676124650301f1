"""The verbs of a decode round: one function per op, each writing into buffers its caller owns."""

from ._dispatch import choose_backends
from .accept import accept
from .add_rms_norm import add_rms_norm
from .blend_candidates import blend_candidates
from .build_tree import build_tree
from .cast import cast
from .compact_kv import compact_kv
from .draft_forward import draft_forward
from .draft_inputs import draft_inputs
from .draft_rows import draft_rows
from .embed import embed
from .gather_features import gather_features
from .grow_tree import grow_tree
from .gumbel_noise import gumbel_noise
from .head_top_k import head_top_k
from .linear import linear
from .move_rows import move_rows
from .ngram_draft import ngram_draft
from .prune_tree import prune_tree
from .rope_append import rope_append
from .select_tokens import select_tokens
from .silu_add import silu_add
from .silu_mul import silu_mul
from .store_tap import store_tap
from .tree_attention import tree_attention

__all__ = [
    "accept",
    "add_rms_norm",
    "blend_candidates",
    "build_tree",
    "cast",
    "choose_backends",
    "compact_kv",
    "draft_forward",
    "draft_inputs",
    "draft_rows",
    "embed",
    "gather_features",
    "grow_tree",
    "gumbel_noise",
    "head_top_k",
    "linear",
    "move_rows",
    "ngram_draft",
    "prune_tree",
    "rope_append",
    "select_tokens",
    "silu_add",
    "silu_mul",
    "store_tap",
    "tree_attention",
]
