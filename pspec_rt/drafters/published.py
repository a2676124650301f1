"""Published drafter formats: EAGLE-1, EAGLE-3, P-EAGLE, Medusa, PARD-2, DFlash, recognised and parsed into one form."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError, DrafterMismatchError
from ..models._json import Fields
from ..models.config import ModelConfig, parse_config
from ..models.weights import Checkpoint
from .config import DFLASH, EAGLE1, EAGLE3, MAX_K, MEDUSA_HEADS, PARD2, PEAGLE, FeatureConfig

SPECULATORS = {"eagle3": EAGLE3, "peagle": PEAGLE, "dflash": DFLASH}  # by `speculators_model_type`
MASK_ID_KEYS = ("mask_token_id", "pard_token", "ptd_token_id")
FILES = ("pytorch_model.bin", "medusa_lm_head.pt", "medusa_lm_head.safetensors", "warp_model.bin")
STATED_K = "num_lookahead_tokens"  # vLLM's word for K in a drafter's config; `pspec-rt export` writes it
TAP_KEYS = ("eagle_aux_hidden_state_layer_ids", "aux_hidden_state_layer_ids")
DEFAULT_K = {EAGLE1: 5, EAGLE3: 7, PEAGLE: 7}  # EAGLE's own depths; what P-EAGLE's cards measure
REFUSED = ("norm_before_fc", "fc_norm", "norm_output")  # variants of EAGLE-3 without a public description


def recognise_published(raw: dict[str, Any], checkpoint: Checkpoint) -> str | None:
    """The kind of a published drafter by its config and tensors, None if it is none of them."""
    stated = raw.get("speculators_model_type")
    if stated is not None:
        return SPECULATORS.get(stated)
    if raw.get("pard2") is True or raw.get("spd_type") == "pard2":
        return PARD2
    if "dflash_config" in raw or raw.get("architectures") == ["DFlashDraftModel"]:
        return DFLASH
    if "0.0.linear.weight" in checkpoint:
        return MEDUSA_HEADS
    if "fc.weight" not in checkpoint:
        return None
    if "midlayer.hidden_norm.weight" in checkpoint or "layers.0.hidden_norm.weight" in checkpoint:
        return PEAGLE if "mask_hidden" in checkpoint or raw.get("ptd_token_id") is not None else EAGLE3
    own_norm = "layers.0.input_layernorm.weight" in checkpoint
    return EAGLE1 if "layers.0.self_attn.q_proj.weight" in checkpoint and not own_norm else None


def parse_eagle(kind: str, raw: dict[str, Any], checkpoint: Checkpoint, target: ModelConfig | None) -> FeatureConfig:
    """The config of an EAGLE-1, EAGLE-3 or P-EAGLE checkpoint, plain or as the `speculators` library writes it.

    Args:
        target: whose layer count the default taps of EAGLE-3 follow; None: they stay unknown, ().

    Raises CheckpointError naming the key that is missing or not supported.
    """
    source = str(checkpoint.folder / "config.json")
    layers = parse_layers(raw, checkpoint, "midlayer." if "midlayer.hidden_norm.weight" in checkpoint else "layers.0.")
    fields = Fields(raw, source)
    for key in REFUSED:
        if fields.flag(key):
            raise CheckpointError(f"{source}: {key} is not supported")
    return FeatureConfig(
        kind=kind,
        k=_stated_k(raw, source) or DEFAULT_K[kind],
        taps=(-1,) if kind == EAGLE1 else _eagle3_taps(raw, target, source),
        **_sizes(fields, layers, checkpoint),
        raw=raw,
        source=source,
        max_k=MAX_K,
        mask_id=mask_token(raw, layers.vocab_size, source) if kind == PEAGLE else 0,
        norm_before_residual=fields.flag("norm_before_residual"),
    )


def parse_dflash(raw: dict[str, Any], checkpoint: Checkpoint) -> FeatureConfig:
    """The config of a DFlash checkpoint, the authors' or the `speculators` library's.

    The authors' layer ids count layers, so layer i's output is hidden state i + 1; the library stores i + 1. Raises
    CheckpointError naming the key that is missing or not supported.
    """
    source = str(checkpoint.folder / "config.json")
    nested = raw["dflash_config"] if isinstance(raw.get("dflash_config"), dict) else {}
    fields, layers = Fields({**raw, **nested}, source), parse_layers(raw, checkpoint, "layers.0.")
    if fields.flag("sample_from_anchor") or "sliding_attention" in (raw.get("layer_types") or ()):
        raise CheckpointError(f"{source}: sample_from_anchor and sliding_attention layers are not supported")
    k = fields.integer("block_size", minimum=2) - 1
    if k > MAX_K:
        raise CheckpointError(f"{source}: block_size = {k + 1}, at most {MAX_K + 1} is supported")
    stated = fields.raw.get("aux_hidden_state_layer_ids")
    if stated is not None:
        taps = read_taps(stated, source)
    else:
        taps = tuple(i + 1 for i in read_taps(fields.raw.get("target_layer_ids"), source))
    return FeatureConfig(
        kind=DFLASH,
        k=k,
        taps=taps,
        **_sizes(fields, layers, checkpoint),
        raw=raw,
        source=source,
        mask_id=mask_token(raw, layers.vocab_size, source),
    )


def _sizes(fields: Fields, layers: ModelConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Fields of a FeatureConfig: its layers, its vocabulary, and the target it fits."""
    head, hidden_size = "lm_head.weight", fields.integer("target_hidden_size", layers.hidden_size)
    return {
        "layers": layers,
        "draft_vocab": checkpoint.shape(head)[0] if head in checkpoint else layers.vocab_size,
        "target": {"vocab_size": layers.vocab_size, "hidden_size": hidden_size},
    }


def parse_layers(raw: dict[str, Any], checkpoint: Checkpoint, first: str) -> ModelConfig:
    """The transformer layers of a drafter: Qwen3's if their queries are normed, else Llama's."""
    nested = raw.get("transformer_layer_config")
    sizes = {**raw, **nested} if isinstance(nested, dict) else raw
    normed = f"{first}self_attn.q_norm.weight" in checkpoint
    architecture = "Qwen3ForCausalLM" if normed else "LlamaForCausalLM"
    return parse_config(sizes, str(checkpoint.folder / "config.json"), architecture=architecture)


def mask_token(raw: dict[str, Any], vocab: int, source: str) -> int:
    """Id of the shared mask token; raises CheckpointError if there is none or it is no token."""
    nested = raw.get("dflash_config")
    places = (nested if isinstance(nested, dict) else {}, raw)
    found = next((place[key] for place in places for key in MASK_ID_KEYS if place.get(key) is not None), None)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < vocab:
        expected = f"expected a token id below {vocab} under {' or '.join(MASK_ID_KEYS)}"
        raise CheckpointError(f"{source}: the mask token is {found!r}: {expected}")
    return found


def read_pard_token(fields: Fields, vocab: int) -> int:
    """Id of PARD's mask token; raises CheckpointError if it is missing or no token."""
    mask_id = fields.integer("pard_token", minimum=0)
    if mask_id >= vocab:
        raise CheckpointError(f"{fields.source}: pard_token = {mask_id} is outside the vocabulary of {vocab}")
    return mask_id


def _stated_k(raw: dict[str, Any], source: str) -> int | None:
    """`speculative_tokens` of the first proposal method of a speculators config, or STATED_K."""
    methods = (raw.get("speculators_config") or {}).get("proposal_methods") or [{}]
    stated = methods[0].get("speculative_tokens", raw.get(STATED_K))
    if stated is None:
        return None
    return min(Fields({"speculative_tokens": stated}, source).integer("speculative_tokens"), MAX_K)


def _eagle3_taps(raw: dict[str, Any], target: ModelConfig | None, source: str) -> tuple[int, ...]:
    """Indices into `hidden_states`: the residual streams that enter layers 2, n // 2 and n - 3, unless stated."""
    places = (raw.get("eagle_config") or {}, raw)
    stated = next((place[key] for place in places for key in TAP_KEYS if place.get(key) is not None), None)
    if stated is not None:
        return read_taps(stated, source)
    return () if target is None else (2, target.num_layers // 2, target.num_layers - 3)


def read_taps(value: Any, source: str) -> tuple[int, ...]:
    """A list of layer indices; raises CheckpointError for anything else."""
    if not isinstance(value, list) or not value or any(type(tap) is not int for tap in value):
        raise CheckpointError(f"{source}: tapped layers are {value!r}, expected a list of layer indices")
    return tuple(value)


def pard2_taps(fields: Fields, target: ModelConfig) -> tuple[int, ...]:
    """PARD-2's hidden states of the target; negative ones count from the end, -1 being after the final norm."""
    stated = fields.raw.get("pard2_target_layers", [-1, -8, -16, -24])
    states = target.num_layers + 1
    taps = tuple(tap if tap >= -1 else tap + states for tap in read_taps(stated, fields.source))
    if beyond := [tap for tap, given in zip(taps, stated, strict=True) if not -1 <= tap < states or given < -states]:
        raise DrafterMismatchError(
            f"{fields.source}: pard2_target_layers = {stated} reads hidden state {beyond[0]}, "
            f"the target ({target.architecture}) has 0..{states - 1}"
        )
    return taps
