"""Target: a loaded target model with its configuration and generation defaults."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import hub
from ..errors import ConfigError
from ..quantize import Int8Weight, quantize
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
INT8_NAMES = {"int8": False, "int8a8": True}  # whether activations, too, are rounded to 8 bits
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
LAYER = "model.layers.{}."


@dataclass(frozen=True)
class Target:
    """A target model ready to run.

    Attributes:
        name: what the user called it (path or hub id).
        path: its folder.
        eos_ids: ids that end a text: config.json's and generation_config.json's together.
        dtype: of activations and cache.
        dtype_name: "float32", "bfloat16", or the kind of int8 weights; these have bf16 activations.
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
    def dtype_name(self) -> str:
        return str(self.decoder.embed_VM.dtype).removeprefix("torch.")

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
        dtype: "bf16", "fp32" (or the torch dtypes), or "auto": the checkpoint's own (fp16 becomes bf16). On a CPU
            also "int8": matrices as 8-bit integers with a scale per row and 64 inputs, half the bytes of bf16; or
            "int8a8": activations, too, are rounded to 8 bits where they meet a matrix: faster with many rows, less
            precise.
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
    kind, a8 = resolve_dtype(dtype, config, checkpoint, place)
    shapes = empty_decoder(config, kind, torch.device("meta"))
    checkpoint.check(decoder_pieces(shapes), spare={HEAD})
    if a8 is None:
        decoder = empty_decoder(config, kind, place)
        checkpoint.load(decoder_pieces(decoder), progress=progress)
    else:
        decoder = load_int8(config, kind, a8, checkpoint, progress=progress)
    target = Target(str(path_or_id), path, config, decoder, defaults, kind, place)
    size = decoder.nbytes / 1e6
    log.info("%s: %s, %.0f MB in %s on %s", path_or_id, config.architecture, size, target.dtype_name, place)
    return target


def resolve_dtype(
    dtype: str | torch.dtype, config: ModelConfig, checkpoint: Checkpoint, device: torch.device
) -> tuple[torch.dtype, bool | None]:
    """The dtype of activations and float weights, and for int8 matrices whether they are "int8a8", else None.

    Raises ConfigError naming the choices.
    """
    a8 = INT8_NAMES.get(dtype) if isinstance(dtype, str) else None
    if a8 is None:
        return _float_dtype(dtype, config, checkpoint), None
    if device.type != "cpu":
        raise ConfigError(f"dtype {dtype!r} on device {str(device)!r}: int8 weights run on CPU only; use bf16")
    return torch.bfloat16, a8


def _float_dtype(dtype: str | torch.dtype, config: ModelConfig, checkpoint: Checkpoint) -> torch.dtype:
    if dtype == "auto":
        named = {str(d).removeprefix("torch."): d for d in DTYPES.values()}.get(config.dtype or "")
        stored = named or checkpoint.dtype(EMBED)
        return torch.float32 if stored == torch.float32 else torch.bfloat16
    chosen = DTYPE_NAMES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPE_NAMES.values():
        raise ConfigError(f"dtype {dtype!r} is not supported; choose 'auto', 'bf16', 'fp32', 'int8' or 'int8a8'")
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


def load_int8(
    config: ModelConfig, dtype: torch.dtype, a8: bool, checkpoint: Checkpoint, *, progress: bool = False
) -> Decoder:
    """Read a checked checkpoint part by part and round the matrices: one part at a time is held in `dtype`."""
    shapes = empty_decoder(config, dtype, torch.device("meta"))
    memory, device = Arena("cpu"), torch.device("cpu")

    with checkpoint.progress(decoder_pieces(shapes), progress) as advance:

        def matrix(name: str) -> Int8Weight:
            w_VM = torch.empty(shapes.embed_VM.shape, dtype=dtype)
            checkpoint.copy({name: w_VM}, advance)
            return quantize(w_VM, a8, memory.empty)

        embed_VM, layers = matrix(EMBED), []
        for index in range(config.num_layers):
            layer = LayerWeights.empty(config, index, dtype, Arena(device, block=0))
            checkpoint.copy(layer.pieces(config, LAYER.format(index)), advance)
            layers.append(layer.quantized(a8, memory))
        norm_M = memory.empty(config.hidden_size, dtype=dtype)
        checkpoint.copy({NORM: norm_M}, advance)
        head_VM = embed_VM if config.tie_word_embeddings else matrix(HEAD)
    stack = Stack(config, layers, Rope(config.rope, config.head_dim, device))
    return Decoder(config, embed_VM, stack, norm_M, head_VM)


def decoder_pieces(decoder: Decoder) -> dict[str, Tensor]:
    """{tensor name: destination} of the whole model, of float weights."""
    embed_VM, head_VM = decoder.embed_VM, decoder.head_VM
    assert isinstance(embed_VM, Tensor) and isinstance(head_VM, Tensor), "int8 weights are loaded by load_int8"
    pieces = {EMBED: embed_VM, NORM: decoder.norm_M}
    if head_VM is not embed_VM:
        pieces[HEAD] = head_VM
    for index, layer in enumerate(decoder.stack.layers):
        pieces |= layer.pieces(decoder.config, LAYER.format(index))
    return pieces
