"""Tiny random checkpoints with a byte-level tokenizer, made once per test session; the real one as a fixture."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pspec_rt import hub
from pspec_rt.models import Target, load_target

VOCAB = 384
SPECIAL = ("<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>")
PAD, BOS, IM_START, EOS = range(4)
MAX_POSITIONS = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = """The quick brown fox jumps over the lazy dog, and the dog sleeps on. What is the answer to
the question of life? Say what you see in the other room: one table, three chairs, another window.
hello there world and hello there moon; this text is here so that a few common words get a token."""

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": YARN,
    "yarn-mscale": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn-exact": YARN | {"attention_factor": 1.3, "truncate": False},
}


def scratch_folder(prefix: str) -> Path:
    """A folder that lasts as long as the test session."""
    folder = Path(tempfile.mkdtemp(prefix=f"pspec-{prefix}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def tiny_checkpoint(
    architecture: str = "LlamaForCausalLM",
    *,
    rope: str = "default",
    tie: bool = True,
    shard_size: str = "1GB",
    options: tuple[tuple[str, Any], ...] = (),
) -> Path:
    """A folder with a random fp32 model of 3 layers and a tokenizer.

    Args:
        architecture: one of MODEL_TYPES.
        rope: one of ROPES.
        tie: the head is the embedding.
        shard_size: as in `save_pretrained`; a small one makes several files.
        options: further config.json entries.
    """
    folder = scratch_folder(MODEL_TYPES[architecture])
    hf_model(architecture, rope=rope, tie=tie, options=options).save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return folder


def hf_model(
    architecture: str, *, rope: str = "default", tie: bool = True, options: tuple[tuple[str, Any], ...] = ()
) -> Any:
    """A random fp32 transformers model whose norms and biases are random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    entries = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tie,
        "rope_parameters": {"rope_theta": 10_000.0, **ROPES[rope]},
        "initializer_range": 0.2,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    config = AutoConfig.for_model(MODEL_TYPES[architecture], **entries | dict(options))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                mean = 1.0 if "norm" in name else 0.0
                torch.nn.init.normal_(parameter, mean, 0.2)
    model.generation_config.eos_token_id = EOS
    return model


@cache
def tiny_target(
    architecture: str = "LlamaForCausalLM", *, dtype: str = "fp32", device: str = "cpu", **kind: Any
) -> Target:
    """The loaded tiny checkpoint; `kind` as in `tiny_checkpoint`."""
    return load_target(tiny_checkpoint(architecture, **kind), dtype=dtype, device=device)


def save_tokenizer(folder: Path, *, add_bos: bool = True, chat: bool = True) -> None:
    """A byte-level BPE tokenizer of VOCAB ids, with a chat template that writes the BOS itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    assert tokenizer.get_vocab_size() == VOCAB, "the text must give enough merges"
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[BOS]} $A", special_tokens=[(SPECIAL[BOS], BOS)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[BOS],
        "eos_token": SPECIAL[EOS],
        "pad_token": SPECIAL[PAD],
    }
    if chat:
        settings["chat_template"] = CHAT_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def copy_checkpoint(tmp_path: Path, **kind: Any) -> Path:
    """A private copy of a tiny checkpoint, for a test to damage."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint(**kind), folder)
    return folder


def edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; a value of ... removes the key."""
    value = json.loads(file.read_text()) if file.exists() else {}
    value |= changes
    file.write_text(json.dumps({key: v for key, v in value.items() if v is not ...}))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct, converted into the user cache on first use."""
    return hub.demo_model()
