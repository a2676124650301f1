"""What a checkpoint's config.json and generation_config.json say, checked, in one form for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ._json import Fields, read_json
from .rope import RopeConfig, parse_rope


@dataclass(frozen=True)
class _Family:
    """What is fixed by the architecture; None biases are read from the key `attention_bias`."""

    qkv_bias: bool | None
    o_bias: bool | None
    mlp_bias: bool | None = False  # None: read `mlp_bias`
    qk_norm: bool = False
    head_dim: int | None = None  # when the key is absent; None: hidden_size / heads
    kv_heads: int | None = None  # when the key is absent; None: as many as query heads
    max_positions: int = 2048  # when the key is absent


FAMILIES = {
    "LlamaForCausalLM": _Family(qkv_bias=None, o_bias=None, mlp_bias=None),
    "MistralForCausalLM": _Family(qkv_bias=False, o_bias=False, kv_heads=8, max_positions=131_072),
    "Qwen2ForCausalLM": _Family(qkv_bias=True, o_bias=False, kv_heads=32, max_positions=32_768),
    "Qwen3ForCausalLM": _Family(
        qkv_bias=None, o_bias=None, qk_norm=True, head_dim=128, kv_heads=32, max_positions=32_768
    ),
}

# Generation defaults that change the text and are not implemented here, with their neutral values.
REFUSED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0, 0.0),
    "dola_layers": (),
    "repetition_penalty": (1, 1.0),
    "encoder_repetition_penalty": (1, 1.0),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "typical_p": (1, 1.0),
    "top_h": (),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "logit_bias": ({}, []),
    "grammar": (),
    "guidance_scale": (1, 1.0),
    "watermarking_config": (),
    "token_healing": (False,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "stop_strings": ([],),
}


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of the Llama family.

    `windows[i]` is the sliding window of layer i in positions, 0 for full attention.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int, ...]
    max_positions: int
    rope: RopeConfig
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    dtype: str | None = None  # as the file names it, e.g. "bfloat16"

    @property
    def qkv_width(self) -> int:
        """X = (H + 2G) * E."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


@dataclass(frozen=True)
class GenerationDefaults:
    """generation_config.json; None: the file does not say. `refused`: what we do not implement."""

    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    eos_ids: tuple[int, ...] = ()
    refused: tuple[str, ...] = ()

    def check(self, source: str) -> None:
        """Raise CheckpointError naming the settings that change the text and are not supported."""
        if self.refused:
            raise CheckpointError(
                f"{source}: generation_config.json asks for {', '.join(self.refused)}, which is "
                "not supported. Pass ignore_generation_config=True to generate without it"
            )


def load_config(folder: Path) -> ModelConfig:
    """Read and check `folder`/config.json."""
    path = Path(folder) / "config.json"
    return parse_config(read_json(path), str(path))


def parse_config(raw: dict[str, Any], source: str, architecture: str | None = None) -> ModelConfig:
    """Check a config.json and bring it into one form.

    Args:
        raw: the JSON object.
        source: its file, for messages.
        architecture: read it as this one instead of the one it names (a drafter's layers).

    Raises:
        CheckpointError: names what is missing or unsupported, and what is supported.
    """
    config = Fields(raw, source)
    name = architecture or _architecture(config)
    family = FAMILIES[name]
    _check_supported(config)
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    # Null, unlike an absent key, always means as many as query heads.
    kv_default = heads if "num_key_value_heads" in raw else family.kv_heads or heads
    kv_heads = config.integer("num_key_value_heads", kv_default)
    head_dim = config.integer("head_dim", family.head_dim or hidden // heads)
    if heads % kv_heads or head_dim % 2:
        raise CheckpointError(
            f"{source}: {heads} query heads over {kv_heads} key/value heads of {head_dim} "
            "dimensions: the first must be a multiple of the second, and the last even"
        )
    num_layers = config.integer("num_hidden_layers")
    max_positions = config.integer("max_position_embeddings", family.max_positions)
    attention_bias = config.flag("attention_bias")
    return ModelConfig(
        architecture=name,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=config.integer("intermediate_size"),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        tie_word_embeddings=config.flag("tie_word_embeddings"),
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        o_bias=attention_bias if family.o_bias is None else family.o_bias,
        mlp_bias=config.flag("mlp_bias") if family.mlp_bias is None else family.mlp_bias,
        qk_norm=family.qk_norm,
        windows=_windows(config, name, num_layers),
        max_positions=max_positions,
        rope=parse_rope(config, max_positions),
        eos_ids=config.ids("eos_token_id"),
        bos_id=next(iter(config.ids("bos_token_id")), None),
        dtype=raw.get("dtype") or raw.get("torch_dtype"),
    )


def _architecture(config: Fields) -> str:
    names = config.raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in FAMILIES:
        raise CheckpointError(
            f"{config.source}: architecture {name!r} is not supported. Supported: {', '.join(FAMILIES)}"
        )
    return name


def _check_supported(config: Fields) -> None:
    if config.has("quantization_config"):
        method = dict(config.raw["quantization_config"]).get("quant_method", "?")
        raise CheckpointError(
            f"{config.source}: the checkpoint is quantised ({method}); only bf16, fp16 and fp32 "
            "weights are supported. Use the unquantised checkpoint"
        )
    activation = config.raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise CheckpointError(f"{config.source}: hidden_act {activation!r} is not supported, only 'silu'")


def _windows(config: Fields, architecture: str, num_layers: int) -> tuple[int, ...]:
    """Sliding window of every layer, by the family's own rule."""
    full = (0,) * num_layers
    stated_null = "sliding_window" in config.raw and not config.has("sliding_window")
    if architecture == "MistralForCausalLM":  # every layer; an absent key means 4096 there
        return full if stated_null else (config.integer("sliding_window", 4096),) * num_layers
    if architecture == "LlamaForCausalLM" or not config.flag("use_sliding_window") or stated_null:
        return full
    window = config.integer("sliding_window", 4096)
    types = config.raw.get("layer_types")
    if types is None:
        first = config.integer("max_window_layers", 28, minimum=0)
        return tuple(window if i >= first else 0 for i in range(num_layers))
    if len(types) != num_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise CheckpointError(
            f"{config.source}: layer_types = {types!r}, expected {num_layers} times full_attention or sliding_attention"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in types)


def load_generation_defaults(folder: Path) -> GenerationDefaults:
    """Read `folder`/generation_config.json; all defaults if there is none."""
    path = Path(folder) / "generation_config.json"
    if not path.exists():
        return GenerationDefaults()
    raw = read_json(path)
    config = Fields(raw, str(path))
    refused = [key for key in REFUSED if config.has(key) and raw[key] not in REFUSED[key]]
    return GenerationDefaults(
        do_sample=config.flag("do_sample"),
        temperature=config.number("temperature") if config.has("temperature") else None,
        top_k=config.integer("top_k", minimum=0) if config.has("top_k") else None,
        top_p=config.number("top_p") if config.has("top_p") else None,
        min_p=config.number("min_p") if config.has("min_p") else None,
        eos_ids=config.ids("eos_token_id"),
        refused=tuple(f"{key} = {raw[key]!r}" for key in refused),
    )
