"""config.json, generation_config.json and RoPE parameters: what is read from them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pspec_rt.errors import CheckpointError, ConfigError
from pspec_rt.models import load_config, load_target
from pspec_rt.models.config import REFUSED, load_generation_defaults, parse_config
from pspec_rt.models.rope import Rope, inverse_frequencies
from tests.tiny import EOS, MAX_POSITIONS, MODEL_TYPES, ROPES, copy_checkpoint, edit_json, tiny_checkpoint

LLAMA_31 = ROPES["llama3"] | {"original_max_position_embeddings": 8192}
QWEN_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


def raw_config(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    """A minimal config.json; a value of ... removes the key."""
    raw = {
        "architectures": [architecture],
        "vocab_size": 100,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 128,
        **changes,
    }
    return {key: value for key, value in raw.items() if value is not ...}


def parse(architecture: str = "LlamaForCausalLM", **changes: Any) -> Any:
    return parse_config(raw_config(architecture, **changes), "config.json")


@pytest.mark.parametrize(
    ("architecture", "heads", "kv_heads", "head_dim"),
    [
        ("LlamaForCausalLM", 8, 8, 8),
        ("MistralForCausalLM", 8, 8, 8),
        ("Qwen2ForCausalLM", 32, 32, 2),
        ("Qwen3ForCausalLM", 32, 32, 128),
    ],
)
def test_absent_keys_mean_what_transformers_takes(architecture: str, heads: int, kv_heads: int, head_dim: int) -> None:
    from transformers import AutoConfig

    config = parse(architecture, num_attention_heads=heads)
    theirs = AutoConfig.for_model(MODEL_TYPES[architecture])
    assert (config.num_kv_heads, config.head_dim) == (kv_heads, head_dim)
    assert config.max_positions == theirs.max_position_embeddings
    assert config.rms_norm_eps == theirs.rms_norm_eps and not config.tie_word_embeddings
    assert config.rope.theta == 10_000.0 and config.rope.kind == "default"


def test_null_key_value_heads_are_as_many_as_query_heads() -> None:
    assert parse("MistralForCausalLM", num_key_value_heads=None, num_attention_heads=16).num_kv_heads == 16


def test_biases_and_norms_by_family() -> None:
    def of(architecture: str, **changes: Any) -> tuple[bool, ...]:
        config = parse(architecture, num_key_value_heads=2, **changes)
        return config.qkv_bias, config.o_bias, config.mlp_bias, config.qk_norm

    assert of("LlamaForCausalLM") == (False, False, False, False)
    assert of("LlamaForCausalLM", attention_bias=True, mlp_bias=True) == (True, True, True, False)
    assert of("MistralForCausalLM") == (False, False, False, False)
    assert of("Qwen2ForCausalLM") == (True, False, False, False)
    assert of("Qwen3ForCausalLM") == (False, False, False, True)
    assert of("Qwen3ForCausalLM", attention_bias=True) == (True, True, False, True)


def test_windows_by_family() -> None:
    assert parse("LlamaForCausalLM", sliding_window=7).windows == (0,) * 4  # transformers does not read it there
    assert parse("MistralForCausalLM").windows == (4096,) * 4
    assert parse("MistralForCausalLM", sliding_window=None).windows == (0,) * 4
    assert parse("MistralForCausalLM", sliding_window=7).windows == (7,) * 4
    qwen = {"architecture": "Qwen2ForCausalLM", "num_key_value_heads": 2, "sliding_window": 7}
    assert parse(**qwen).windows == (0,) * 4
    assert parse(**qwen, use_sliding_window=True, max_window_layers=3).windows == (0, 0, 0, 7)
    types = ["sliding_attention", "full_attention"] * 2
    assert parse(**qwen, use_sliding_window=True, layer_types=types).windows == (7, 0, 7, 0)
    assert parse(**qwen, layer_types=types).windows == (0,) * 4
    with pytest.raises(CheckpointError, match="layer_types"):
        parse(**qwen, use_sliding_window=True, layer_types=["chunked_attention"] * 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.*Supported: LlamaForCausalLM"),
        ({"architectures": ...}, "architecture None"),
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"head_dim": 7}, "even"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "'spiral'.*Supported: default, linear"),
        ({"rope_scaling": {"type": "longrope"}}, "already in the cache"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": "linear"}, "expected an object"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}, "sliding_attention": {}}}, "differ"),
        ({"rope_parameters": {"full_attention": None, "sliding_attention": {}}}, "differ"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse(**changes)
    assert str(caught.value).startswith("config.json")


def test_old_and_new_rope_entries_mean_the_same() -> None:
    new = parse(rope_parameters={**LLAMA_31, "rope_theta": 5e5}).rope
    assert new == parse(rope_theta=5e5, rope_scaling=LLAMA_31).rope
    by_type = {"full_attention": {**LLAMA_31, "rope_theta": 5e5}, "sliding_attention": {**LLAMA_31, "rope_theta": 5e5}}
    assert new == parse(rope_parameters=by_type).rope
    old_name = {key: value for key, value in LLAMA_31.items() if key != "rope_type"} | {"type": "llama3"}
    assert new == parse(rope_theta=5e5, rope_scaling=old_name).rope
    assert (new.kind, new.theta, new.factor, new.original_positions) == ("llama3", 5e5, 8.0, 8192)


def test_the_checkpoint_of_an_older_transformers_loads_alike(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path, rope="yarn")
    rope = dict(ROPES["yarn"])
    edit_json(folder / "config.json", rope_parameters=..., rope_theta=10_000.0, rope_scaling=rope)
    assert load_config(folder).rope == load_config(tiny_checkpoint(rope="yarn")).rope


@pytest.mark.parametrize("rope", [*ROPES.values(), LLAMA_31, QWEN_YARN], ids=[*ROPES, "llama 3.1", "qwen yarn"])
def test_frequencies_equal_transformers(rope: dict[str, Any]) -> None:
    """At real sizes: base 5e5, 128 dimensions."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    entries = {"rope_theta": 5e5, **rope}
    config = LlamaConfig(
        hidden_size=1024, num_attention_heads=8, max_position_embeddings=131_072, rope_parameters=dict(entries)
    )
    init = ROPE_INIT_FUNCTIONS.get(rope["rope_type"], LlamaRotaryEmbedding.compute_default_rope_parameters)
    theirs, factor = init(config)
    ours = parse(rope_parameters=entries, max_position_embeddings=131_072).rope
    torch.testing.assert_close(inverse_frequencies(ours, 128), theirs, rtol=1e-6, atol=0)
    assert ours.attention_factor == pytest.approx(factor)


def test_tables_grow_and_keep_what_they_had() -> None:
    rope = Rope(parse(rope_scaling=QWEN_YARN).rope, 16, torch.device("cpu"), positions=5)
    first = rope.cos_SE.clone()
    rope.reserve(3)
    assert rope.cos_SE.shape == (5, 8)
    rope.reserve(40)
    assert rope.sin_SE.shape == (40, 8) and torch.equal(rope.cos_SE[:5], first)
    factor = rope.config.attention_factor
    assert factor > 1 and torch.allclose(rope.cos_SE[0], torch.full((8,), factor))


def test_dynamic_rope_ends_at_the_original_length() -> None:
    rope = Rope(load_config(tiny_checkpoint(rope="dynamic")).rope, 16, torch.device("cpu"))
    rope.reserve(MAX_POSITIONS)
    with pytest.raises(ConfigError, match=f"{MAX_POSITIONS + 1} positions.*dynamic.*{MAX_POSITIONS}"):
        rope.reserve(MAX_POSITIONS + 1)


def test_generation_defaults(tmp_path: Path) -> None:
    assert load_generation_defaults(tmp_path).eos_ids == ()
    file = tmp_path / "generation_config.json"
    entries = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "eos_token_id": [7, 8]}
    file.write_text(json.dumps({**entries, "repetition_penalty": 1.0, "num_beams": 1, "bad_words_ids": None}))
    defaults = load_generation_defaults(tmp_path)
    assert (defaults.do_sample, defaults.temperature, defaults.top_k) == (True, 0.6, 20)
    assert (defaults.top_p, defaults.min_p, defaults.eos_ids, defaults.refused) == (0.95, 0.0, (7, 8), ())
    file.write_text("[]")
    with pytest.raises(CheckpointError, match="generation_config.json: expected a JSON object"):
        load_generation_defaults(tmp_path)


@pytest.mark.parametrize("key", REFUSED)
def test_generation_settings_we_lack_are_refused_by_name(key: str, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "generation_config.json", **{key: 5})
    with pytest.raises(CheckpointError, match=rf"asks for {key} = 5.*ignore_generation_config=True"):
        load_target(folder)
    assert load_target(folder, ignore_generation_config=True).defaults.refused == (f"{key} = 5",)


def test_eos_ids_of_both_files_are_merged(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path)
    edit_json(folder / "generation_config.json", eos_token_id=[9, EOS, 11])
    assert load_target(folder).eos_ids == (EOS, 9, 11)


def test_broken_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json: cannot be read"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json: is not valid JSON"):
        load_config(tmp_path)
