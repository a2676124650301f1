"""What the config.json of a feature drafter (ParallelSpec-EAGLE, ParallelSpec-Medusa) says, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, ConfigError, DrafterMismatchError
from ..models._json import Fields
from ..models.config import ModelConfig, parse_config
from ..tree import MAX_NODES, parse_tree

EAGLE, MEDUSA, PARD, LM = "parallelspec-eagle", "parallelspec-medusa", "pard", "lm"
KINDS = (EAGLE, MEDUSA, PARD, LM)
EAGLE1, EAGLE3, PEAGLE = "eagle", "eagle3", "p-eagle"  # published formats, known by their tensors
MEDUSA_HEADS, PARD2, DFLASH = "medusa", "pard2", "dflash"
PUBLISHED = (EAGLE1, EAGLE3, PEAGLE, MEDUSA_HEADS, PARD2, DFLASH)
MAX_K = MAX_NODES // 2  # P + J = 2K rows of a parallel draft share one 64-bit ancestor word
TARGET_KEYS = ("vocab_size", "hidden_size", "num_hidden_layers", "architecture")


@dataclass(frozen=True)
class FeatureConfig:
    """Sizes of a feature drafter.

    Attributes:
        k: depths it was trained for: an anchor and k-1 masks. Of published formats, the default number of depths.
        taps: hidden states of the target it reads, side by side (`hidden_states` indices; -1 after the final norm).
        draft_vocab: D, rows of its output head.
        layers: its transformer layers; hidden_size M need not be the target's, vocab_size V is.
        target: what it was trained for, keys TARGET_KEYS.
        raw: the JSON object, written back by `save_drafter`.
        source: where it came from, for messages.
        max_k: most depths, if more than k.
        tree: the tree it drafts unless another is asked for, as on the command line; of no use to kinds that have their
            own (EAGLE-1, EAGLE-3).
        mask_id: the token of P-EAGLE's masks.
        norm_before_residual: EAGLE-3's first layer adds its output to the normed features, not to the plain ones.
    """

    kind: str
    k: int
    taps: tuple[int, ...]
    draft_vocab: int
    layers: ModelConfig
    target: dict[str, Any]
    raw: dict[str, Any]
    source: str
    max_k: int = 0
    tree: str = "chain"
    mask_id: int = 0
    norm_before_residual: bool = False

    @property
    def feature_width(self) -> int:
        """F."""
        return len(self.taps) * self.target["hidden_size"]

    @property
    def embedding_width(self) -> int:
        """Width of the token embeddings joined to the features; 0 if the drafter reads no tokens."""
        return self.target["hidden_size"] if self.kind in (EAGLE, EAGLE1) else 0

    @property
    def joins_norms(self) -> bool:
        """Whether the first layer's attention reads [normed embedding ; normed features], as EAGLE-3's does."""
        return self.kind in (EAGLE3, PEAGLE)

    @property
    def mask_width(self) -> int:
        """Width of a mask embedding: it stands for a token embedding, or for a whole input row."""
        return self.embedding_width or self.layers.hidden_size

    def check_fit(self, target: ModelConfig) -> None:
        """Raise DrafterMismatchError, naming both sides, unless the drafter can draft for this target."""
        for name, own, theirs in (
            ("a vocabulary of {} tokens", self.layers.vocab_size, target.vocab_size),
            ("hidden states of width {}", self.target["hidden_size"], target.hidden_size),
        ):
            if own != theirs:
                raise DrafterMismatchError(
                    f"{self.source}: the drafter was made for {name.format(own)}, "
                    f"the target ({target.architecture}) has {theirs}: use a drafter made for this target"
                )
        if beyond := [tap for tap in self.taps if not -1 <= tap <= target.num_layers]:
            raise DrafterMismatchError(
                f"{self.source}: the drafter taps hidden state {beyond[0]}, "
                f"the target ({target.architecture}) has 0..{target.num_layers} (or -1, the last)"
            )


def parse_feature_config(raw: dict[str, Any], source: str) -> FeatureConfig:
    """Check a config.json with a "pspec" entry of a feature kind; raises CheckpointError naming the bad key."""
    fields = Fields(raw, source)
    pspec = Fields(raw["pspec"], f"{source}: pspec")
    k, taps = pspec.integer("k"), pspec.raw.get("taps", [-1])
    if k > MAX_K:
        raise CheckpointError(f"{source}: pspec: k = {k}, at most {MAX_K} is supported")
    if not isinstance(taps, list) or not taps or any(type(tap) is not int for tap in taps):
        raise CheckpointError(f"{source}: pspec: taps = {taps!r}, expected a list of layer indices such as [-1]")
    if len(set(taps)) != len(taps):
        raise CheckpointError(f"{source}: pspec: taps = {taps!r} names a hidden state twice")
    layers = parse_config(raw, source, architecture="LlamaForCausalLM")
    if layers.qkv_bias or layers.o_bias or layers.mlp_bias:
        raise CheckpointError(f"{source}: attention_bias and mlp_bias are not part of this drafter format")
    return FeatureConfig(
        kind=raw["pspec"]["kind"],
        k=k,
        taps=tuple(taps),
        draft_vocab=fields.integer("draft_vocab_size", layers.vocab_size),
        layers=layers,
        target=_parse_target(raw, source),
        raw=raw,
        source=source,
        tree=_parse_tree(raw["pspec"], k, source),
    )


def _parse_tree(pspec: dict[str, Any], k: int, source: str) -> str:
    tree = pspec.get("tree", "medusa" if pspec["kind"] == MEDUSA else "chain")
    if not isinstance(tree, str) or tree.endswith(".json"):
        raise CheckpointError(f"{source}: pspec: tree = {tree!r}, expected chain, medusa or best-first:NODES")
    try:
        parse_tree(tree, k)
    except ConfigError as error:
        raise CheckpointError(f"{source}: pspec: {error}") from error
    return tree


def _parse_target(raw: dict[str, Any], source: str) -> dict[str, Any]:
    entry = raw.get("target")
    if not isinstance(entry, dict):
        raise CheckpointError(f"{source}: target is missing: expected an object with {', '.join(TARGET_KEYS)}")
    fields = Fields(entry, f"{source}: target")
    sizes = {key: fields.integer(key) for key in TARGET_KEYS[:3]}
    return {**sizes, "architecture": str(entry.get("architecture"))}


def target_entry(target: ModelConfig) -> dict[str, Any]:
    """The "target" entry of a config.json for a drafter of this target."""
    return dict(
        zip(
            TARGET_KEYS,
            (target.vocab_size, target.hidden_size, target.num_layers, target.architecture),
            strict=True,
        )
    )
