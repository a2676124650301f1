"""Reading safetensors straight into their final place; all is checked before a byte is copied."""

from __future__ import annotations

import json
import logging
import math
import pickle
import struct
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ._json import read_json
from ._progress import progress_bar

log = logging.getLogger("pspec_rt")

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PYTORCH = "pytorch_model.bin"
_REOPEN_BYTES = 64 << 20  # a mapping keeps the pages it has read; closing it gives them back


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header of its file describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    pickle: bool = False


def check_unused(folder: Path) -> None:
    """Raise CheckpointError unless a checkpoint may be written there: nothing is, or an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: already exists and is not empty; choose another folder or remove it")


class Checkpoint:
    """The tensors of a folder's safetensors files, by name.

    Args:
        others: names of files that are read, too, where they lie in the folder. Those of PyTorch (.pt, .bin) are read
            as tensors only (`weights_only`), so no code of theirs runs, and its usual one only where there are
            no safetensors.

    Raises:
        CheckpointError: no weights, a missing shard, a truncated or broken file.
    """

    def __init__(self, folder: Path, others: Collection[str] = ()) -> None:
        self.folder = Path(folder)
        self._entries: dict[str, _Entry] = {}
        usual = (self.folder / SINGLE).exists() or (self.folder / INDEX).exists()
        found = [self.folder / name for name in others if (self.folder / name).exists()]
        for file in found:
            if not (usual and file.name == PYTORCH):
                self._entries |= _read_header(file) if file.suffix == ".safetensors" else _read_pickle(file)
        for file in files_of(self.folder) if usual or not found else ():
            self._entries |= _read_header(file)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype; raises CheckpointError for one that is not fp32, fp16 or bf16."""
        entry = self._entry(name)
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"{entry.file}: tensor {name} is {entry.dtype}; only {', '.join(DTYPES)} are "
                "supported (a quantised checkpoint? use the unquantised one)"
            )
        return DTYPES[entry.dtype]

    def integers(self, name: str) -> Tensor:
        """A whole-number tensor (a drafter's d2t), as int64; raises CheckpointError for another."""
        entry = self._entry(name)
        if entry.dtype not in ("I64", "I32"):
            raise CheckpointError(f"{entry.file}: tensor {name} is {entry.dtype}, expected I64 or I32")
        with _open(entry) as tensors:
            return tensors.get_tensor(name).long()

    def check(self, pieces: Mapping[str, Tensor], *, spare: Collection[str] = ()) -> None:
        """Check that every named tensor is there, of its destination's shape and a known dtype.

        Tensors of the files that are in neither `pieces` nor `spare` are named in a warning.

        Raises:
            CheckpointError: names the file and the tensor.
        """
        if missing := [name for name in pieces if name not in self._entries]:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise CheckpointError(f"{self.folder}: tensors missing: {', '.join(missing[:3])}{more}")
        for name, destination in pieces.items():
            self.dtype(name)
            stored = self.shape(name)
            leading = stored[: max(len(stored) - destination.dim(), 0)]  # some writers keep axes of size 1 in front
            if stored[len(leading) :] != tuple(destination.shape) or set(leading) - {1}:
                raise CheckpointError(
                    f"{self._entry(name).file}: tensor {name} has shape {self.shape(name)}, "
                    f"config.json implies {tuple(destination.shape)}"
                )
        unused = [name for name in self.names if name not in pieces and name not in spare]
        unused = [name for name in unused if not name.endswith("rotary_emb.inv_freq")]
        if unused:
            examples = ", ".join(unused[:3])
            log.warning("%s: %d tensors are not used, e.g. %s", self.folder, len(unused), examples)

    def load(self, pieces: Mapping[str, Tensor], *, progress: bool = False) -> None:
        """Copy (and cast) tensors into their destinations, file by file.

        Args:
            pieces: {tensor name: destination}; call `check` first.
            progress: draw a bar on stderr.

        Raises:
            CheckpointError: NaN or infinite weights.
        """
        with self.progress(pieces, progress) as advance:
            self.copy(pieces, advance)

    def progress(self, pieces: Mapping[str, Tensor], show: bool) -> AbstractContextManager[Callable[[int], None]]:
        """A bar over all of `pieces`, to be advanced by `copy`, perhaps of one part at a time."""
        return progress_bar("loading weights", sum(piece.nbytes for piece in pieces.values()), show)

    def copy(self, pieces: Mapping[str, Tensor], advance: Callable[[int], None]) -> None:
        """As `load`; calls `advance(bytes)` after every tensor."""
        by_file: dict[Path, list[str]] = {}
        for name in pieces:
            by_file.setdefault(self._entry(name).file, []).append(name)
        for file, names in by_file.items():
            for batch in _batches(names, pieces):
                with _open(self._entry(batch[0])) as tensors:
                    for name in batch:
                        pieces[name].copy_(tensors.get_tensor(name).view(pieces[name].shape))
                        _check_finite(file, name, pieces[name])
                        advance(pieces[name].nbytes)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        return self._entries[name]


def files_of(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those its index names, else the usual one.

    Raises CheckpointError naming one that is missing or lies elsewhere.
    """
    index = folder / INDEX
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(f"{index}: weight_map is missing")
        for name in shards.values():
            if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
                raise CheckpointError(f"{index}: weight_map names {name!r}, expected a file in its folder")
        files = [folder / name for name in sorted(set(shards.values()))]
        for file in files:
            if not file.exists():
                raise CheckpointError(f"{file}: shard is missing, although {INDEX} names it; download it again")
        return files
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    others = [p.name for p in folder.glob("*.bin")] + [p.name for p in folder.glob("*.gguf")]
    hint = f" (found {others[0]}: convert it to safetensors first)" if others else ""
    raise CheckpointError(f"{folder}: no {SINGLE} or {INDEX}{hint}")


def _read_header(file: Path) -> dict[str, _Entry]:
    """Tensors of one file from its header, whose offsets must fit the file's size."""
    broken = f"{file}: truncated or not a safetensors file; download it again"
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        header_size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + header_size > size:
            raise CheckpointError(broken)
        try:
            header = json.loads(stream.read(header_size))
            header.pop("__metadata__", None)
            for name, info in header.items():
                if 8 + header_size + info["data_offsets"][1] > size:
                    raise CheckpointError(f"{file}: truncated: it ends inside tensor {name}; download it again")
            entries = {n: _Entry(file, i["dtype"], tuple(i["shape"])) for n, i in header.items()}
            with safe_open(file, framework="pt"):  # the library's own checks of the header
                return entries
        except (ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise CheckpointError(f"{broken} ({error})") from error


PICKLED = {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"} | {dtype: name for name, dtype in DTYPES.items()}


class _Pickle:
    """A PyTorch file of tensors by name, mapped into memory; read as `safe_open` is."""

    def __init__(self, file: Path) -> None:
        try:
            self.tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{file}: not a PyTorch file that holds tensors alone ({reason})") from error
        if not isinstance(self.tensors, dict) or not all(isinstance(t, torch.Tensor) for t in self.tensors.values()):
            raise CheckpointError(f"{file}: expected tensors by name")

    def get_tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def __enter__(self) -> _Pickle:
        return self

    def __exit__(self, *_: object) -> None:
        self.tensors = {}


def _open(entry: _Entry) -> Any:
    """The file of an entry, as a context whose `get_tensor` reads."""
    return _Pickle(entry.file) if entry.pickle else safe_open(entry.file, framework="pt")


def _read_pickle(file: Path) -> dict[str, _Entry]:
    with _Pickle(file) as tensors:
        return {
            str(name): _Entry(file, PICKLED.get(t.dtype, str(t.dtype)), tuple(t.shape), pickle=True)
            for name, t in tensors.tensors.items()
        }


def _batches(names: list[str], pieces: Mapping[str, Tensor]) -> list[list[str]]:
    """Names in runs of about _REOPEN_BYTES each."""
    batches: list[list[str]] = [[]]
    size = 0
    for name in names:
        if size > _REOPEN_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(name)
        size += pieces[name].nbytes
    return batches


def _check_finite(file: Path, name: str, tensor: Tensor) -> None:
    low, high = torch.aminmax(tensor)  # both are NaN if anything is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CheckpointError(f"{file}: tensor {name} holds NaN or infinite values; the checkpoint is damaged")
