"""From options to a drafter ready to learn: family, taps, draft vocabulary and starting weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..drafters.checkpoint import load_drafter
from ..drafters.config import EAGLE, EAGLE1, LM, MEDUSA, MEDUSA_HEADS, PARD, PEAGLE
from ..drafters.feature import FeatureDrafter
from ..drafters.lm import LMDrafter, ParallelLMDrafter, SequentialLMDrafter
from ..drafters.new import init_drafter
from ..errors import ConfigError
from ..models.config import GenerationDefaults, parse_config
from ..models.target import Target, decoder_pieces, empty_decoder
from .baselines import EagleTrainee, MedusaHeadsTrainee, ParallelEagleTrainee
from .data import Text
from .families import FeatureTrainee, LMTrainee, Trainee, check_float
from .features import Features
from .init import RIDGE_TOKENS, damp, fit, take_layers
from .published import BASELINES, new_eagle, new_medusa_heads, new_p_eagle
from .vocab import choose_vocab, count_tokens, coverage

log = logging.getLogger("pspec_rt")

FEATURE_FAMILIES = (EAGLE, MEDUSA, *BASELINES)
FAMILIES = (*FEATURE_FAMILIES, PARD, LM)
DEFAULT_PARTS = {EAGLE: ("bias", "anchor_map"), MEDUSA: ("bias", "anchor_map")}


@dataclass(frozen=True)
class Recipe:
    """What to train.

    Attributes:
        family: one of FAMILIES.
        k: depths.
        draft_vocab: tokens it can draft, 0 for all; of the feature families.
        taps: hidden states of the target it reads; None: `default_taps`.
        layers: transformer layers of a new drafter; of the target's first ones for "pard" and "lm".
        mlp: inner width of the layers' MLP, of the ParallelSpec families; None: the target's.
        parts: optional tensors (see `init_drafter`); None: DEFAULT_PARTS.
        init: "fit" (closed form, see `init.fit`) or "random".
        init_layers: layers of the target to start from, one for each of the drafter's; (): random ones.
        adapt: checkpoint of a small LM to adapt ("pard", "lm"); None: the target's own first layers.
        seed: of random weights.
    """

    family: str = EAGLE
    k: int = 4
    draft_vocab: int = 8192
    taps: tuple[int, ...] | None = None
    layers: int = 1
    mlp: int | None = None
    parts: tuple[str, ...] | None = None
    init: str = "fit"
    init_layers: tuple[int, ...] = ()
    adapt: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"family {self.family!r}: choose {', '.join(FAMILIES)}")
        if self.init not in ("fit", "random"):
            raise ConfigError(f"init {self.init!r}: choose fit or random")
        if self.k < 1 or self.draft_vocab < 0 or self.layers < 1:
            raise ConfigError(
                f"k={self.k}, draft_vocab={self.draft_vocab}, layers={self.layers}: expected k, layers >= 1"
            )
        if self.mlp is not None and (self.mlp < 1 or self.family not in DEFAULT_PARTS):
            raise ConfigError(f"mlp={self.mlp}: expected a number >= 1, with family {' or '.join(DEFAULT_PARTS)}")

    def read_taps(self, target: Target) -> tuple[int, ...]:
        """The hidden states this family reads; () for language models."""
        if self.family in (PARD, LM):
            return ()
        if self.family in (EAGLE1, MEDUSA_HEADS):  # their formats know no other
            return (-1,)
        if self.taps is not None:
            return self.taps
        taps = default_taps(target.config.num_layers)
        return taps[:-1] if self.family == PEAGLE else taps


def default_taps(layers: int) -> tuple[int, ...]:
    """A low, a middle and a high state (EAGLE-3's choice), and the last."""
    return (*sorted({min(2, layers - 1), layers // 2, max(layers - 3, 0)}), -1)


def prepare(
    recipe: Recipe, target: Target, texts: Sequence[Text], held: Sequence[Text], dtype: torch.dtype
) -> tuple[Trainee, dict[str, Any]]:
    """The drafter with its first weights (but for `start_fitted`), and facts about it for the log.

    Args:
        texts, held: to learn from, and held out; the draft vocabulary is chosen from the first, its coverage measured
            on the second.
        dtype: of the rows in training.
    """
    check_float(target)
    if recipe.family == LM or recipe.family == PARD:
        return LMTrainee(_language_model(recipe, target, texts), target, dtype), {}
    facts: dict[str, Any] = {}
    draft_ids: list[int] | None = None
    V = target.config.vocab_size
    if recipe.draft_vocab and recipe.draft_vocab < V:
        ids_D = choose_vocab(count_tokens(texts, V), recipe.draft_vocab, target.eos_ids)
        facts = {"draft_vocab": len(ids_D), "coverage": round(coverage(ids_D, held, V), 4)}
        log.info("draft vocabulary: %d tokens, %.1f%% of held-out answers", len(ids_D), 100 * facts["coverage"])
        draft_ids = ids_D.tolist()
    return _feature_trainee(recipe, target, texts, draft_ids, dtype), facts


def _feature_trainee(
    recipe: Recipe, target: Target, texts: Sequence[Text], draft_ids: list[int] | None, dtype: torch.dtype
) -> Trainee:
    k, taps = recipe.k, recipe.read_taps(target)
    if recipe.family == EAGLE1:
        return EagleTrainee(new_eagle(target, k, draft_ids, recipe.seed), target, dtype)
    if recipe.family == MEDUSA_HEADS:
        chosen = None if draft_ids is None else torch.tensor(draft_ids)
        return MedusaHeadsTrainee(new_medusa_heads(target, k), target, dtype, chosen)
    if recipe.family == PEAGLE:
        ids, mask_id = draft_ids or list(range(target.config.vocab_size)), _unused(texts, target.config.vocab_size)
        new = new_p_eagle(target, k, taps, recipe.layers, ids, mask_id, recipe.seed)
        return ParallelEagleTrainee(new, target, dtype)
    parts = DEFAULT_PARTS[recipe.family] if recipe.parts is None else recipe.parts
    drafter = init_drafter(
        recipe.family, target, k, layers=recipe.layers, intermediate_size=recipe.mlp, taps=taps, draft_vocab=draft_ids,
        parts=parts, seed=recipe.seed,
    )  # fmt: skip
    assert isinstance(drafter, FeatureDrafter), "what init_drafter makes of these families"
    return FeatureTrainee(drafter, target, dtype)


def start_fitted(
    recipe: Recipe, module: Trainee, target: Target, texts: Sequence[Text], features: Features, train: Sequence[int]
) -> dict[str, Any]:
    """Give a feature drafter its starting weights from the target and the texts; facts for the log."""
    if not isinstance(module, FeatureTrainee):
        return {}
    if recipe.init_layers:
        take_layers(module, target, recipe.init_layers)
    if recipe.init == "random":
        return {}
    chosen, tokens = [], 0
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    for place in order:
        index = train[place]
        chosen.append((features[index], texts[index].prompt))
        tokens += len(texts[index].ids)
        if tokens > RIDGE_TOKENS:
            break
    damp(module)
    return {"fit_explains": round(fit(module, target, chosen), 4)}


def _language_model(recipe: Recipe, target: Target, texts: Sequence[Text]) -> LMDrafter:
    """The small LM that is adapted."""
    if recipe.adapt is not None:
        given = load_drafter(recipe.adapt, target)
        if not isinstance(given, LMDrafter):
            raise ConfigError(f"{recipe.adapt} is a {given.kind} drafter: only language models can be adapted")
        model, raw = given.model, dict(given.raw)
    else:
        model, raw = _first_layers(target, recipe.layers)
    raw["pspec"] = {"kind": recipe.family, "k": recipe.k}
    if recipe.family == LM:
        return SequentialLMDrafter(model, raw, target.config, recipe.k)
    raw.setdefault("pard_token", _unused(texts, model.config.vocab_size))
    return ParallelLMDrafter(model, raw, target.config, recipe.k, raw["pard_token"])


def _first_layers(target: Target, layers: int) -> tuple[Target, dict[str, Any]]:
    """A model of the target's first layers, with its embedding, final norm and head."""
    raw = json.loads((target.path / "config.json").read_text())
    raw["num_hidden_layers"] = min(layers, target.config.num_layers)
    if raw.get("layer_types"):
        raw["layer_types"] = raw["layer_types"][: raw["num_hidden_layers"]]
    config = parse_config(raw, f"first {layers} layers of {target.name}")
    decoder = empty_decoder(config, target.dtype, target.device)
    whole: dict[str, Tensor] = decoder_pieces(target.decoder)
    for name, piece in decoder_pieces(decoder).items():
        piece.copy_(whole[name])
    return replace(
        target, name=f"first layers of {target.name}", config=config, decoder=decoder, defaults=GenerationDefaults()
    ), raw


def _unused(texts: Sequence[Text], vocab_size: int) -> int:
    """The highest token id that no text holds: it becomes the mask token."""
    counts_V = count_tokens(texts, vocab_size)
    free = (counts_V == 0).nonzero()[:, 0]
    if not len(free):
        raise ConfigError("every token of the vocabulary occurs in the data: none is left to serve as the mask token")
    return int(free[-1])
