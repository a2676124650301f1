"""Errors of training that a user can cause."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import PspecError


class TrainError(PspecError):
    """Training cannot start or go on: empty data, another vocabulary, a full disk, a loss that is NaN."""


@contextmanager
def disk_errors(path: Path, advice: str) -> Iterator[None]:
    """Turns an OSError while `path` is written into a TrainError that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise TrainError(f"{path} cannot be written: {reason}. {advice}") from error
