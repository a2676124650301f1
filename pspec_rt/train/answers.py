"""Answer files: rows appended one by one, so that a run can stop at any time and go on later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ..errors import PspecError

Key = tuple[str, int]  # id of the prompt, seed of the row: the seed tells apart temperatures and samples


class AnswerError(PspecError):
    """An answer file cannot be written or continued; the message names it and the fix."""


class AnswerFile:
    """FILE.jsonl, a row per answer, and beside it FILE.jsonl.meta.json: what wrote the rows.

    Use as a context manager. Entering reads the rows that exist and drops a torn last line. Whatever happens while
    writing, the file ends with a whole row.

    Attributes:
        done: keys of the rows in the file.
        kept: the rows found on entering, answers only as their number of tokens: (kind, tokens).

    Raises:
        AnswerError: on entering if another process writes the file, or if it was made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.meta_path = path, path.with_name(path.name + ".meta.json")
        self.settings = dict(settings)
        self.done: set[Key] = set()
        self.kept: list[tuple[str, int]] = []
        self._lock = FileLock(path.with_name(path.name + ".lock"), timeout=0)

    def __enter__(self) -> AnswerFile:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise AnswerError(f"{self.path}: another process is writing it") from error
        except OSError as error:
            raise AnswerError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            self._check_settings()
            self.write_meta({})
            self._file = self.path.open("a+b", buffering=0)
            self._end = self._read_rows()
            self._file.truncate(self._end)
        except OSError as error:
            self._lock.release()
            raise AnswerError(f"{self.path}: cannot be written ({error.strerror})") from error
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.truncate(self._end)  # a row that an error or Ctrl-C cut off
        self._file.close()
        self._lock.release()

    def append(self, key: Key, row: Mapping[str, Any]) -> None:
        """Write one row, whole or not at all; raises AnswerError if the disk refuses it."""
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            if self._file.write(line) != len(line):
                raise OSError("no space left")
        except OSError as error:
            reason = error.strerror or error
            raise AnswerError(
                f"{self.path}: {reason}; its {len(self.done)} rows are whole: make room and run the same command again"
            ) from error
        self._end += len(line)
        self.done.add(key)

    def write_meta(self, counts: Mapping[str, Any]) -> None:
        """Replace the meta file: settings, and what is known about the rows."""
        new = self.meta_path.with_name(self.meta_path.name + ".new")
        try:
            new.write_text(json.dumps(self.settings | {"counts": dict(counts)}, indent=1, ensure_ascii=False) + "\n")
            os.replace(new, self.meta_path)
        except OSError as error:
            raise AnswerError(f"{self.meta_path}: cannot be written ({error.strerror})") from error

    def _check_settings(self) -> None:
        """Raise AnswerError unless the rows that exist were made with these settings."""
        if not self.path.exists() or not self.path.stat().st_size:
            return
        try:
            before = json.loads(self.meta_path.read_text())
        except (OSError, ValueError) as error:
            message = f"{self.path} exists without a readable {self.meta_path.name}: choose another file or delete it"
            raise AnswerError(message) from error
        for name, value in self.settings.items():
            if before.get(name) != value:
                raise AnswerError(
                    f"{self.path} was written with {name} = {before.get(name)!r}, not {value!r}: "
                    "repeat those settings to go on, or choose another file"
                )

    def _read_rows(self) -> int:
        """Take note of the rows in the file; returns where the last whole one ends."""
        end = 0
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    self.done.add((row["id"], row["seed"]))
                    self.kept.append((row["kind"], len(row["answer_ids"])))
                except (ValueError, KeyError, TypeError) as error:
                    raise AnswerError(f"{self.path}, line {number}: not a row of answers ({error})") from error
                end += len(line)
        return end
