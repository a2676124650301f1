"""Target: a loaded target model with its configuration and generation defaults."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import hub
from ..errors import ConfigError
from .config import GenerationDefaults, ModelConfig, load_config, load_generation_defaults
from .decoder import Decoder, Stack
from .layers import LayerWeights
from .memory import Arena
from .rope import Rope
from .weights import DTYPES, Checkpoint

log = logging.getLogger("pspec_rt")

DTYPE_NAMES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
}
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


@dataclass(frozen=True)
class Target:
    """A target model ready to run.

    Attributes:
        name: what the user called it (path or hub id).
        path: its folder.
        eos_ids: ids that end a text: config.json's and generation_config.json's together.
    """

    name: str
    path: Path
    config: ModelConfig
    decoder: Decoder
    defaults: GenerationDefaults
    dtype: torch.dtype
    device: torch.device

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.config.eos_ids + self.defaults.eos_ids))

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return self.decoder.nbytes


def load_target(
    path_or_id: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    progress: bool = False,
    ignore_generation_config: bool = False,
) -> Target:
    """Load a Hugging Face checkpoint of the Llama family.

    Args:
        path_or_id: a folder, or an id on the hub.
        dtype: "bf16", "fp32" (or the torch dtypes), or "auto": the checkpoint's own (fp16 becomes
            bf16).
        device: where the weights go; "auto" is a GPU if there is one.
        progress: draw a bar on stderr.
        ignore_generation_config: load although generation_config.json asks for something that is
            not supported, and do without it.

    Raises:
        CheckpointError: nothing there, damaged, or unsupported; names the file and the tensor or
            key.
        ConfigError: unknown dtype or device.
    """
    path = hub.resolve(path_or_id)
    config = load_config(path)
    defaults = load_generation_defaults(path)
    if not ignore_generation_config:
        defaults.check(str(path))
    checkpoint = Checkpoint(path)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, config, checkpoint)
    shapes = empty_decoder(config, kind, torch.device("meta"))
    checkpoint.check(decoder_pieces(shapes), spare={HEAD})
    decoder = empty_decoder(config, kind, place)
    checkpoint.load(decoder_pieces(decoder), progress=progress)
    size = decoder.nbytes / 1e6
    log.info("%s: %s, %.0f MB in %s on %s", path_or_id, config.architecture, size, kind, place)
    return Target(str(path_or_id), path, config, decoder, defaults, kind, place)


def resolve_dtype(dtype: str | torch.dtype, config: ModelConfig, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype to load weights in; raises ConfigError naming the choices."""
    if dtype == "auto":
        named = {str(d).removeprefix("torch."): d for d in DTYPES.values()}.get(config.dtype or "")
        stored = named or checkpoint.dtype(EMBED)
        return torch.float32 if stored == torch.float32 else torch.bfloat16
    chosen = DTYPE_NAMES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPE_NAMES.values():
        raise ConfigError(f"dtype {dtype!r} is not supported; choose 'auto', 'bf16' or 'fp32'")
    return chosen


def resolve_device(device: str | torch.device) -> torch.device:
    """The device to load weights on ("auto": a GPU if there is one); raises ConfigError for one that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {str(device)!r} cannot be used: {reason}") from error


def empty_decoder(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Decoder:
    """An uninitialised decoder; on device "meta" it costs nothing and still has all shapes."""
    memory, V, M = Arena(device), config.vocab_size, config.hidden_size
    embed_VM = memory.empty(V, M, dtype=dtype)
    layers = [LayerWeights.empty(config, i, dtype, memory) for i in range(config.num_layers)]
    return Decoder(
        config,
        embed_VM,
        Stack(config, layers, Rope(config.rope, config.head_dim, device)),
        memory.empty(M, dtype=dtype),
        embed_VM if config.tie_word_embeddings else memory.empty(V, M, dtype=dtype),
    )


def decoder_pieces(decoder: Decoder) -> dict[str, Tensor]:
    """{tensor name: destination} of the whole model."""
    pieces = {EMBED: decoder.embed_VM, NORM: decoder.norm_M}
    if decoder.head_VM is not decoder.embed_VM:
        pieces[HEAD] = decoder.head_VM
    for index, layer in enumerate(decoder.stack.layers):
        pieces |= layer.pieces(decoder.config, f"model.layers.{index}.")
    return pieces
