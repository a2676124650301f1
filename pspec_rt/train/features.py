"""What the target makes of a text: tapped hidden states and its best tokens per position, live or from disk."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
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

    A shard is made of texts in their order and kept whole or not at all, so a run that was stopped goes on, and a data
    file that has grown only needs its new shards. Another target, other taps or other texts use other shards.

    Args:
        folder: made if need be; one folder serves many data files.
        advance: told how many tokens have been read.

    Raises:
        TrainError: not enough room on the disk; nothing has been written then, or whole shards only.
    """

    def __init__(
        self, folder: Path, reader: Callable[[], Reader], key: str, width: int, dtype: torch.dtype,
        texts: Sequence[Text], advance: Advance = lambda tokens: None,
    ) -> None:  # fmt: skip
        self.folder, self._arrays = folder, _arrays(width, dtype)
        self._dtype = dtype
        self._place: list[tuple[Path, int, int]] = []
        shards = [(self._name(key, shard), shard) for shard in _shards(texts)]
        missing = [(path, shard) for path, shard in shards if not path.is_dir()]
        self._check_room(missing)
        made: Reader | None = None
        for path, shard in shards:
            if not path.is_dir():
                made = made or reader()
                self._write(path, shard, made, advance)
            first = 0
            for text in shard:
                self._place.append((path, first, first + len(text.ids)))
                first += len(text.ids)

    def __getitem__(self, index: int) -> Seen:
        path, start, end = self._place[index]
        parts = {}
        for name, (columns, dtype) in self._arrays.items():
            if columns:
                rows = np.memmap(path / f"{name}.bin", dtype=dtype, mode="r").reshape(-1, columns)[start:end]
            else:  # a family that reads no features: empty files cannot be mapped
                rows = np.empty((end - start, 0), dtype=dtype)
            parts[name] = torch.from_numpy(np.array(rows))
        return Seen(
            parts["ids"][:, 0].long(),
            parts["features"].view(self._dtype),
            parts["top_ids"].long(),
            parts["top_logprobs"].float(),
        )

    def _name(self, key: str, shard: Sequence[Text]) -> Path:
        digest = hashlib.sha256(key.encode())
        for text in shard:
            digest.update(np.array([len(text.ids), *text.ids], dtype=np.int32).tobytes())
        return self.folder / digest.hexdigest()[:24]

    def _check_room(self, missing: Sequence[tuple[Path, Sequence[Text]]]) -> None:
        """State the size beforehand; raises TrainError if the disk has not that much."""
        if not missing:
            return
        with disk_errors(self.folder, "Name another folder with --cache"):
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        per_token = sum(columns * np.dtype(dtype).itemsize for columns, dtype in self._arrays.values())
        tokens = sum(len(text.ids) for _, shard in missing for text in shard)
        need = tokens * per_token
        log.info("target features: %d tokens, %.2f GB into %s (%.1f free)", tokens, need / 1e9, self.folder, free / 1e9)
        if need > free:
            raise TrainError(
                f"{self.folder}: the target's features of {tokens} tokens take {need / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free: make room, name another folder with --cache, or use --cache off"
            )

    def _write(self, path: Path, shard: Sequence[Text], reader: Reader, advance: Advance) -> None:
        """Read the texts of one shard and put its files in place."""
        new = path.with_suffix(".new")
        with disk_errors(path, "Make room and run the same command again, or use --cache off"):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            files = {name: (new / f"{name}.bin").open("wb") for name in self._arrays}
            try:
                for text in shard:
                    for name, values in _as_stored(reader.read(text.ids)).items():
                        files[name].write(values.astype(self._arrays[name][1], copy=False).tobytes())
                    advance(len(text.ids))
            finally:
                for file in files.values():
                    file.close()
            (new / "index.json").write_text(json.dumps({"texts": [[t.id, len(t.ids), t.prompt] for t in shard]}))
            new.rename(path)


def features_of(
    target: Target, taps: tuple[int, ...], texts: Sequence[Text], folder: Path | None, advance: Advance
) -> Features:
    """The target's view of texts: from the cache in `folder`, or made when asked for if there is none."""

    def reader() -> Reader:
        return Reader(target, taps, max(len(text.ids) for text in texts))

    if folder is None:
        return LiveFeatures(reader(), texts)
    width = len(taps) * target.config.hidden_size
    key = f"{fingerprint(target.path)} {target.dtype_name} {taps} {TOP}"
    return CachedFeatures(folder, reader, key, width, target.dtype, texts, advance)


def _arrays(width: int, dtype: torch.dtype) -> dict[str, tuple[int, Any]]:
    """{file: (columns, stored dtype)}; NumPy has no bf16, so features are kept as bit patterns of their width."""
    bits = np.int16 if dtype.itemsize == 2 else np.int32
    return {
        "ids": (1, np.int32),
        "features": (width, bits),
        "top_ids": (TOP, np.int32),
        "top_logprobs": (TOP, np.float16),
    }


def _as_stored(seen: Seen) -> dict[str, np.ndarray[Any, Any]]:
    features_TF = seen.features_TF.cpu()
    return {
        "ids": seen.ids_T.cpu().numpy(),
        "features": features_TF.view(torch.int16 if features_TF.itemsize == 2 else torch.int32).numpy(),
        "top_ids": seen.top_ids_TC.cpu().numpy(),
        "top_logprobs": seen.top_logprobs_TC.cpu().numpy(),
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
