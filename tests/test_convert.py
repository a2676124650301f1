"""GGUF conversion: the weights, configuration and tokenizer that come out, and files it must refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from torch import Tensor

from pspec_rt.convert import convert_gguf
from pspec_rt.errors import CheckpointError
from pspec_rt.models import load_config, load_target
from pspec_rt.tokenizer import Tokenizer
from tests.tiny import CHAT_TEMPLATE, hf_model

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
SPECIAL = ("<|end|>", "<|start|>", "<|stop|>")
_HF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def vocabulary() -> list[str]:
    """Special tokens, the byte alphabet and two merges."""
    return [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "ĊĊ"]


def model_of(architecture: str, tie: bool) -> Any:
    """A tiny transformers model with bf16 values, so that conversion can be exact."""
    options = (("vocab_size", len(vocabulary())), ("pad_token_id", None))
    model = hf_model(ARCHITECTURES[architecture], tie=tie, options=options)
    return model.to(torch.bfloat16)


def interleave(weight: Tensor, heads: int) -> Tensor:
    """Rows of a q or k weight as llama.cpp stores them: RoPE turns neighbours there."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path, architecture: str = "llama", tie: bool = False, kind: Kind = Kind.F32, pre: str = "smollm", **more: Any
) -> dict[str, Tensor]:
    """Write a tiny model as GGUF; returns its Hugging Face tensors. `more`: metadata, or tensors to add / drop."""
    model = model_of(architecture, tie)
    config, writer = model.config, gguf.GGUFWriter(path, more.get("stated", architecture))
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(3)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    if scaling := more.get("scaling"):
        writer.add_rope_scaling_type(scaling)
    _write_tokenizer(writer, pre)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not tie or name != "lm_head.weight"}
    for name, tensor in (tensors | more.get("extra", {})).items():
        if name in more.get("drop", ()):
            continue
        heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
        part = ".".join(name.split(".")[-2:])
        stored = interleave(tensor, heads[part]) if architecture == "llama" and part in heads else tensor
        for ours, theirs in _HF_NAMES.items():
            name = name.replace(ours, theirs)
        values, stored_kind = stored.float().numpy(), kind if stored.dim() == 2 else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(values, stored_kind), raw_dtype=stored_kind)
    for step in ("header_to_file", "kv_data_to_file", "tensors_to_file"):
        getattr(writer, f"write_{step}")()
    writer.close()
    return tensors


def _write_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2" if pre != "none" else "unknown")
    writer.add_eot_token_id(0)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(["a b", "Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.BF16])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_come_back_bit_for_bit(architecture: str, tie: bool, kind: Kind, tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "m.gguf", architecture, tie, kind)
    out = convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    converted = load_file(out / "model.safetensors")
    assert set(converted) == set(original)
    assert all(torch.equal(converted[name], original[name]) for name in original)
    config = load_config(out)
    assert config.architecture == ARCHITECTURES[architecture] and config.tie_word_embeddings == tie
    assert (config.rope.theta, config.rms_norm_eps, config.max_positions) == (1e6, 1e-5, 512)
    assert load_target(out).dtype == torch.bfloat16 and load_target(out).eos_ids == (2, 0)  # eos, end of turn


def test_transformers_loads_the_result(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "m.gguf")
    out = convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    ours, theirs = AutoModelForCausalLM.from_pretrained(out), model_of("llama", tie=False)
    ours.config.rope_parameters["rope_theta"] = 1e4
    ids = torch.arange(20)[None]
    assert ours.dtype == torch.bfloat16 and ours.generation_config.eos_token_id == [2, 0]
    with torch.inference_mode():
        rotated = type(theirs)(ours.config).to(torch.bfloat16).eval()
        rotated.load_state_dict(ours.state_dict())
        assert torch.equal(rotated(ids).logits, theirs.eval()(ids).logits)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1, Kind.F16])
def test_quantised_weights_are_rounded_once(kind: Kind, tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "m.gguf", kind=kind)
    converted = load_file(convert_gguf(tmp_path / "m.gguf", tmp_path / "out") / "model.safetensors")
    name = "model.layers.2.mlp.down_proj.weight"
    packed = gguf.quants.quantize(original[name].float().numpy(), kind)
    expected = torch.tensor(np.ascontiguousarray(gguf.quants.dequantize(packed, kind))).to(torch.bfloat16)
    assert torch.equal(converted[name], expected)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    out = convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    tokenizer, vocab = Tokenizer(out), vocabulary()
    newlines, stop = vocab.index("ĊĊ"), [vocab.index(digit) for digit in "1."]
    assert tokenizer.encode("\n\n1.") == [newlines, *stop]  # only with single digits split off first
    assert tokenizer.encode("ab<|stop|>") == [vocab.index("ab"), 2]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, len(vocab))
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.encode_chat([{"role": "user", "content": "ab"}])[0] == 1
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == CHAT_TEMPLATE and settings["unk_token"] == "<|end|>"


def test_single_digits_are_for_smollm_only(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", pre="gpt-2")
    out = convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert "Digits" not in (out / "tokenizer.json").read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    out = tmp_path / "out"
    out.mkdir()
    convert_gguf(tmp_path / "m.gguf", out)  # an empty folder is fine
    with pytest.raises(CheckpointError, match="not empty"):
        convert_gguf(tmp_path / "m.gguf", out)
    with pytest.raises(CheckpointError, match="not empty"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"stated": "mamba"}, "architecture 'mamba' is not supported. Supported: llama, qwen2, qwen3"),
        ({"extra": {"rope_freqs.weight": torch.ones(8)}}, r"tensor rope_freqs\.weight .* has no place"),
        ({"drop": ["model.layers.1.mlp.up_proj.weight"]}, r"tensor blk\.1\.ffn_up\.weight is missing"),
        ({"drop": ["model.embed_tokens.weight"]}, r"tensor token_embd\.weight is missing; .* part of several"),
        ({"pre": "none"}, "its tokenizer cannot be converted.*'unknown'"),
        ({"scaling": gguf.RopeScalingType.YARN}, "RoPE scaling 'yarn'"),
    ],
)
def test_files_we_cannot_convert(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", **more)
    with pytest.raises(CheckpointError, match=message):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("keep", [6, 30, 3000, -5000])
def test_truncated_files(keep: int, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"m\.gguf: truncated or damaged"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")


def test_not_a_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
