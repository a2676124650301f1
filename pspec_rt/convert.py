"""From a GGUF file to a bf16 Hugging Face checkpoint, for this runtime and for transformers."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError
from .models._progress import progress_bar
from .models.weights import check_unused

log = logging.getLogger("pspec_rt")


@dataclass(frozen=True)
class _Source:
    """How one GGUF architecture maps to Hugging Face."""

    architecture: str
    model_type: str
    interleaved: bool = False  # rows of q and k are stored for RoPE on neighbouring pairs
    qkv_bias: bool = False
    qk_norm: bool = False


SOURCES = {
    "llama": _Source("LlamaForCausalLM", "llama", interleaved=True),
    "qwen2": _Source("Qwen2ForCausalLM", "qwen2", qkv_bias=True),
    "qwen3": _Source("Qwen3ForCausalLM", "qwen3", qk_norm=True),
}
_EMBED = "token_embd.weight"
_TOP = {_EMBED: "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # Hugging Face: GGUF
_OUTPUT = "output.weight"  # absent when the head is tied to the embedding
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class _Gguf:
    """An opened GGUF file: metadata by key and tensors by name."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            with path.open("rb") as stream:
                magic = stream.read(4)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        if magic != b"GGUF":
            raise CheckpointError(f"{path}: not a GGUF file (it starts with {magic!r})")
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            message = f"{path}: truncated or damaged GGUF file ({error}); download it again"
            raise CheckpointError(message) from error
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture = self.get("general.architecture")
        if self.architecture not in SOURCES:
            raise CheckpointError(
                f"{path}: GGUF architecture {self.architecture!r} is not supported. Supported: {', '.join(SOURCES)}"
            )

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value; `{arch}` in the key stands for the architecture."""
        field = self._reader.fields.get(key.format(arch=getattr(self, "architecture", "")))
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            key = key.format(arch=self.architecture)
            raise CheckpointError(f"{self.path}: GGUF metadata {key} is missing")
        return value

    def tensor(self, name: str) -> Tensor:
        """A tensor dequantised in fp32 and rounded once to bf16."""
        from gguf.quants import dequantize

        stored = self.tensors[name]
        try:
            values = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            message = f"{self.path}: tensor {name}: {stored.tensor_type.name} is not supported"
            raise CheckpointError(message) from error
        return torch.tensor(values).to(torch.bfloat16)  # a copy: fp32 ones are views of the file


def convert_gguf(gguf: str | Path, out_dir: str | Path, *, progress: bool = False) -> Path:
    """Write a bf16 checkpoint: configs, model.safetensors and the tokenizer's files.

    Args:
        gguf: a GGUF file of a Llama, Qwen2 or Qwen3 model, of any quantisation.
        out_dir: a folder that does not exist yet, or is empty.
        progress: draw a bar on stderr.

    Returns:
        out_dir.

    Raises:
        CheckpointError: not a GGUF file, truncated, an unsupported architecture or tensor, or
            out_dir is in use.
    """
    from safetensors.torch import save_file

    gguf, out_dir = Path(gguf), Path(out_dir)
    check_unused(out_dir)
    source = _Gguf(gguf)
    config = _config(source)
    names = _names(source, config)
    out_dir.mkdir(parents=True, exist_ok=True)
    _save_tokenizer(source, out_dir, config["vocab_size"])
    weights = {}
    total = sum(int(tensor.n_bytes) for tensor in source.tensors.values())
    with progress_bar("converting weights", total, progress) as advance:
        for stored, name in names.items():
            weights[name] = _converted(source, config, stored)
            advance(int(source.tensors[stored].n_bytes))
    save_file(weights, out_dir / "model.safetensors", metadata={"format": "pt"})
    _write_json(out_dir / "generation_config.json", _generation_config(source, config))
    _write_json(out_dir / "config.json", config)  # last: a folder without it is no checkpoint
    log.info("%s: %d tensors written to %s", gguf, len(weights), out_dir)
    return out_dir


def _config(source: _Gguf) -> dict[str, Any]:
    """config.json from the metadata; raises CheckpointError for RoPE scaling."""
    kind = SOURCES[source.architecture]
    heads = source.need("{arch}.attention.head_count")
    hidden = source.need("{arch}.embedding_length")
    head_dim = source.get("{arch}.attention.key_length", hidden // heads)
    scaling = source.get("{arch}.rope.scaling.type", "none")
    rotated = source.get("{arch}.rope.dimension_count", head_dim)
    if scaling != "none" or rotated != head_dim:
        raise CheckpointError(
            f"{source.path}: RoPE scaling {scaling!r} over {rotated} of {head_dim} dimensions is "
            "not converted; use the original Hugging Face checkpoint"
        )
    if _EMBED not in source.tensors:
        raise CheckpointError(
            f"{source.path}: tensor {_EMBED} is missing; a file without weights, or one part of several?"
        )
    config = {
        "architectures": [kind.architecture],
        "model_type": kind.model_type,
        "vocab_size": int(source.tensors[_EMBED].shape[1]),
        "hidden_size": hidden,
        "num_hidden_layers": source.need("{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": source.get("{arch}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": source.need("{arch}.feed_forward_length"),
        "hidden_act": "silu",
        "max_position_embeddings": source.need("{arch}.context_length"),
        # Stored as fp32: seven digits give back the number it was written from.
        "rms_norm_eps": float(f"{source.need('{arch}.attention.layer_norm_rms_epsilon'):.7g}"),
        "rope_theta": float(source.get("{arch}.rope.freq_base", 10_000.0)),
        "tie_word_embeddings": _OUTPUT not in source.tensors,
        "torch_dtype": "bfloat16",
    }
    for name, key in _SPECIAL.items():
        if name != "unk" and (token := source.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[f"{name}_token_id"] = token
    return config


def _generation_config(source: _Gguf, config: dict[str, Any]) -> dict[str, Any]:
    """The special ids; the end of a turn (eot) ends a text as well as the end of the text does."""
    special = {key: value for key, value in config.items() if key.endswith("_token_id")}
    end, turn = special.get("eos_token_id"), source.get("tokenizer.ggml.eot_token_id")
    if turn is not None and turn != end:
        special["eos_token_id"] = [turn] if end is None else [end, turn]
    return special


def _names(source: _Gguf, config: dict[str, Any]) -> dict[str, str]:
    """{GGUF tensor: Hugging Face tensor}; raises CheckpointError if the file holds more or less."""
    kind = SOURCES[source.architecture]
    names = dict(_TOP)
    if not config["tie_word_embeddings"]:
        names[_OUTPUT] = "lm_head.weight"
    layer = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in _LAYER.items()}
    if kind.qkv_bias:
        layer |= {f"attn_{part}.bias": f"self_attn.{part}_proj.bias" for part in "qkv"}
    if kind.qk_norm:
        layer |= {f"attn_{part}_norm.weight": f"self_attn.{part}_norm.weight" for part in "qk"}
    for i in range(config["num_hidden_layers"]):
        names |= {f"blk.{i}.{theirs}": f"model.layers.{i}.{ours}" for theirs, ours in layer.items()}
    if missing := sorted(set(names) - set(source.tensors)):
        raise CheckpointError(f"{source.path}: tensor {missing[0]} is missing ({len(missing)} in all)")
    if extra := sorted(set(source.tensors) - set(names)):
        raise CheckpointError(
            f"{source.path}: tensor {extra[0]} ({len(extra)} in all) has no place in "
            f"{kind.architecture}; use the original Hugging Face checkpoint"
        )
    return names


def _converted(source: _Gguf, config: dict[str, Any], stored: str) -> Tensor:
    weight = source.tensor(stored)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    part = stored.split(".")[-2]
    if not SOURCES[source.architecture].interleaved or part not in heads:
        return weight
    # [head, pair, 2] rows back to [head, 2, pair]: Hugging Face rotates dimension i with i + E/2.
    return weight.unflatten(0, (heads[part], -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _save_tokenizer(source: _Gguf, out_dir: Path, vocab_size: int) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template)."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source.path.parent), gguf_file=source.path.name)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"{source.path}: its tokenizer cannot be converted ({error!r})") from error
    if source.get("tokenizer.ggml.pre") == "smollm":
        # transformers leaves out that SmolLM's vocabulary was learned on single digits.
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    # transformers adds GPT-2's own end token where the vocabulary has none, as an id the model has no row for.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["id"] < vocab_size]
    (out_dir / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.need("{arch}.context_length"),
    }
    for name, key in _SPECIAL.items():
        if (token := source.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            settings[f"{name}_token"] = tokenizer.convert_ids_to_tokens(token)
    if template := source.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    _write_json(out_dir / "tokenizer_config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
