"""What the target makes of a text: tapped hidden states and its best tokens per position, live or from disk."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..kv_cache import KVCache
from ..models.target import Target
from ..models.workspace import Workspace
from .data import Text
from .errors import TrainError, disk_errors
from .fingerprint import fingerprint

log = logging.getLogger("pspec_rt")

TOP = 16  # tokens of the target's distribution that are kept; the most head_top_k gives
SHARD_TOKENS = 1 << 15
IDS, TOP_IDS, TOP_LOGPROBS = "ids.bin", "top_ids.bin", "top_logprobs.bin"
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Seen:
    """A text of n tokens as the target sees it; row t belongs to the token at position t."""

    ids_T: Tensor  # int64
    features_TF: Tensor  # bf16 or fp32
    top_ids_TC: Tensor  # int64: the best next tokens, C = TOP
    top_logprobs_TC: Tensor  # fp32


class Features(Protocol):
    """Gives a text, by its index, as the target sees it."""

    def __getitem__(self, index: int) -> Seen: ...


class Reader:
    """Runs the target over whole texts of up to `max_length` tokens, one at a time."""

    def __init__(self, target: Target, taps: tuple[int, ...], max_length: int) -> None:
        config, device = target.config, target.device
        self.target, self.width = target, len(taps) * config.hidden_size
        ops.choose_backends(device.type)
        self._decoder = target.decoder.with_taps(taps)
        self._decoder.stack.rope.reserve(max_length)
        self._cache = KVCache.allocate(
            config.num_layers, 1, config.num_kv_heads, max_length, config.head_dim, dtype=target.dtype, device=device
        )
        self._work = Workspace(config, max_length, dtype=target.dtype, device=device)

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> Seen:
        T, device = len(ids), self.target.device
        ids_T = torch.tensor(ids, dtype=torch.int32, device=device)
        features_TF = torch.zeros(T, self.width, dtype=self.target.dtype, device=device)
        top_ids_TC = torch.zeros(T, TOP, dtype=torch.int32, device=device)
        top_logprobs_TC = torch.zeros(T, TOP, device=device)
        slot = self._cache.slot(0)
        hidden_TM = self._decoder.prefill_chunk(ids_T, 0, slot, self._work, features_TF if self.width else None)
        ops.head_top_k(hidden_TM, self._decoder.head_VM, top_ids_TC, top_logprobs_TC)
        return Seen(ids_T.long(), features_TF, top_ids_TC.long(), top_logprobs_TC)


@dataclass
class LiveFeatures:
    """Runs the target whenever a text is asked for: no disk, but again in every epoch."""

    reader: Reader
    texts: Sequence[Text]

    def __getitem__(self, index: int) -> Seen:
        return self.reader.read(self.texts[index].ids)


class CachedFeatures:
    """The target's view of texts in memory-mapped files of a folder, written once, shard by shard.

    A shard is a folder of texts in their order, each tap a file of its own; a file is kept whole or not at all. So a
    run that was stopped goes on, a data file that has grown only needs its new shards, and drafters that read other
    taps share what they have in common. Another target or other texts use other shards.

    Args:
        folder: made if need be; one folder serves many data files.
        reader: makes the Reader of these taps, should something be missing.
        key: tells targets apart.
        width: of one tap.
        advance: told how many tokens have been read.

    Raises:
        TrainError: not enough room on the disk; nothing has been written then, or whole files only.
    """

    def __init__(
        self, folder: Path, reader: Callable[[], Reader], key: str, taps: tuple[int, ...], width: int,
        dtype: torch.dtype, texts: Sequence[Text], advance: Advance = lambda tokens: None,
    ) -> None:  # fmt: skip
        self.folder, self.taps, self._dtype = folder, taps, dtype
        self._arrays = _arrays(taps, width, dtype)
        self._place: list[tuple[Path, int, int]] = []
        shards = [(self._name(key, shard), shard) for shard in _shards(texts)]
        missing = [(path, shard, self._missing(path, shard)) for path, shard in shards]
        self._check_room([(shard, names) for _, shard, names in missing])
        made: Reader | None = None
        for path, shard, names in missing:
            if names:
                made = made or reader()
                self._write(path, shard, names, made, advance)
            first = 0
            for text in shard:
                self._place.append((path, first, first + len(text.ids)))
                first += len(text.ids)

    def __getitem__(self, index: int) -> Seen:
        path, start, end = self._place[index]
        parts = {}
        for name, (columns, dtype) in self._arrays.items():
            rows = np.memmap(path / name, dtype=dtype, mode="r").reshape(-1, columns)[start:end]
            parts[name] = torch.from_numpy(np.array(rows))
        tapped = [parts[_tap_file(tap)].view(self._dtype) for tap in self.taps]
        return Seen(
            parts[IDS][:, 0].long(),
            torch.cat(tapped, dim=1) if tapped else torch.empty(end - start, 0, dtype=self._dtype),
            parts[TOP_IDS].long(),
            parts[TOP_LOGPROBS].float(),
        )

    def _missing(self, path: Path, shard: Sequence[Text]) -> list[str]:
        sizes = {name: self._row_bytes(name) * _tokens(shard) for name in self._arrays}
        files = {name: path / name for name in self._arrays}
        return [name for name, file in files.items() if not file.is_file() or file.stat().st_size != sizes[name]]

    def _row_bytes(self, name: str) -> int:
        columns, dtype = self._arrays[name]
        return columns * int(np.dtype(dtype).itemsize)

    def _name(self, key: str, shard: Sequence[Text]) -> Path:
        digest = hashlib.sha256(key.encode())
        for text in shard:
            digest.update(np.array([len(text.ids), *text.ids], dtype=np.int32).tobytes())
        return self.folder / digest.hexdigest()[:24]

    def _check_room(self, missing: Sequence[tuple[Sequence[Text], Sequence[str]]]) -> None:
        """State the size beforehand; raises TrainError if the disk has not that much."""
        tokens = need = 0
        for shard, names in missing:
            if names:
                tokens += _tokens(shard)
                need += _tokens(shard) * sum(map(self._row_bytes, names))
        if not tokens:
            return
        with disk_errors(self.folder, "Name another folder with --cache"):
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        log.info("target features: %d tokens, %.2f GB into %s (%.1f free)", tokens, need / 1e9, self.folder, free / 1e9)
        if need > free:
            raise TrainError(
                f"{self.folder}: the target's features of {tokens} tokens take {need / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free: make room, name another folder with --cache, or use --cache off"
            )

    def _write(self, path: Path, shard: Sequence[Text], names: Sequence[str], reader: Reader, advance: Advance) -> None:
        """Read the texts of one shard and put the missing files in place."""
        with disk_errors(path, "Make room and run the same command again, or use --cache off"), ExitStack() as stack:
            path.mkdir(parents=True, exist_ok=True)
            new = {name: path / f"{name}.{os.getpid()}.new" for name in names}  # two runs may write the same shard
            open_files = {name: stack.enter_context(file.open("wb")) for name, file in new.items()}
            for text in shard:
                rows = _as_stored(reader.read(text.ids), self.taps)
                for name, stream in open_files.items():
                    stream.write(rows[name].astype(self._arrays[name][1], copy=False).tobytes())
                advance(len(text.ids))
            stack.close()
            for name, file in new.items():
                file.rename(path / name)


def features_of(
    target: Target, taps: tuple[int, ...], texts: Sequence[Text], folder: Path | None, advance: Advance
) -> Features:
    """The target's view of texts: from the cache in `folder`, or made when asked for if there is none."""

    def reader() -> Reader:
        return Reader(target, taps, max(len(text.ids) for text in texts))

    if folder is None:
        return LiveFeatures(reader(), texts)
    key = f"{fingerprint(target.path)} {target.dtype_name} {TOP}"
    return CachedFeatures(folder, reader, key, taps, target.config.hidden_size, target.dtype, texts, advance)


def _tokens(texts: Sequence[Text]) -> int:
    return sum(len(text.ids) for text in texts)


def _tap_file(tap: int) -> str:
    return f"tap{tap}.bin"


def _bits(dtype: torch.dtype) -> tuple[torch.dtype, Any]:
    """NumPy has no bf16: features are kept as bit patterns of their width."""
    return (torch.int16, np.int16) if dtype.itemsize == 2 else (torch.int32, np.int32)


def _arrays(taps: tuple[int, ...], width: int, dtype: torch.dtype) -> dict[str, tuple[int, Any]]:
    """{file: (columns, stored dtype)}"""
    return {
        IDS: (1, np.int32),
        TOP_IDS: (TOP, np.int32),
        TOP_LOGPROBS: (TOP, np.float16),
        **{_tap_file(tap): (width, _bits(dtype)[1]) for tap in taps},
    }


def _as_stored(seen: Seen, taps: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """The files' rows; `seen` has the features of these taps."""
    bits_TF = seen.features_TF.cpu().view(_bits(seen.features_TF.dtype)[0])
    tapped = bits_TF.chunk(len(taps), dim=1) if taps else ()
    return {
        IDS: seen.ids_T.cpu().numpy(),
        TOP_IDS: seen.top_ids_TC.cpu().numpy(),
        TOP_LOGPROBS: seen.top_logprobs_TC.cpu().numpy(),
        **{_tap_file(tap): rows_TM.numpy() for tap, rows_TM in zip(taps, tapped, strict=True)},
    }


def _shards(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """Texts in order, in runs of at least SHARD_TOKENS tokens (the last may have fewer)."""
    shard: list[Text] = []
    tokens = 0
    for text in texts:
        shard.append(text)
        tokens += len(text.ids)
        if tokens >= SHARD_TOKENS:
            yield shard
            shard, tokens = [], 0
    if shard:
        yield shard
