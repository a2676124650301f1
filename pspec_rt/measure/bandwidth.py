"""The yardstick of decoding: how fast this machine reads memory, and how many bytes a decoded token reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models.decoder import Decoder
from ..ops._dispatch import native

READS = 5
CACHES = 4  # times the last-level cache: hardly anything that is read is still there from the read before
LEAST_BYTES = 256 << 20  # shorter reads say more about starting threads than about memory
UNKNOWN_CACHE = 64 << 20
FREE_SHARE = 0.25


@dataclass(frozen=True)
class ReadBandwidth:
    """The best of `READS` reads of a buffer by all threads, and what was read.

    `last_level_cache_bytes` is what the system reports (0: nothing), which on a virtual machine is the host's cache.
    """

    gbs: float
    threads: int
    buffer_bytes: int
    last_level_cache_bytes: int


def read_bandwidth() -> ReadBandwidth | None:
    """Read a buffer with as many threads as the kernels use now; None where the native module is not built."""
    if not native.available:
        return None
    buffer = streaming_buffer()
    seconds = min(native.read_sum(buffer.data_ptr(), buffer.nbytes)[1] for _ in range(READS))
    return ReadBandwidth(buffer.nbytes / seconds / 1e9, native.num_threads(), buffer.nbytes, last_level_cache())


def streaming_buffer(most: int | None = None) -> torch.Tensor:
    """[bytes] uint8, backed by memory, of `streaming_bytes()` but at most `most` bytes."""
    size = streaming_bytes()
    buffer = torch.empty(size if most is None else min(size, most), dtype=torch.uint8)
    if native.available:
        native.use_huge_pages(buffer.data_ptr(), buffer.nbytes)
    return buffer.fill_(1)


def streaming_bytes() -> int:
    """Several times the last-level cache where a quarter of the free memory allows that."""
    wanted = max(LEAST_BYTES, CACHES * (last_level_cache() or UNKNOWN_CACHE))
    free = free_memory()
    return wanted if free is None else min(wanted, int(FREE_SHARE * free))


def weight_bytes(decoder: Decoder) -> int:
    """Weight bytes a decoded token reads: layers, final norm and head once; the embedding is only looked up in."""
    tied = decoder.head_VM is decoder.embed_VM
    return decoder.nbytes - (0 if tied else decoder.embed_VM.nbytes)


def last_level_cache() -> int:
    """Bytes of the largest cache of the first core, as Linux reports it; 0 if it does not."""
    sizes = (_text(file) for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return max((_bytes_of(size) for size in sizes), default=0)


def _bytes_of(size: str) -> int:
    """Of a size like "480K"."""
    number, unit = size[:-1], size[-1:]
    return int(number) << {"K": 10, "M": 20, "G": 30}[unit] if number.isdigit() and unit in ("K", "M", "G") else 0


def free_memory() -> int | None:
    """Bytes that can still be allocated, also within a container's limit; None if the system does not say."""
    limit, used = _text(Path("/sys/fs/cgroup/memory.max")), _text(Path("/sys/fs/cgroup/memory.current"))
    in_container = int(limit) - int(used) if limit.isdigit() and used.isdigit() else None
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) << 10
            return available if in_container is None else max(0, min(available, in_container))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not Linux: what is installed
    except (ValueError, OSError, AttributeError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
