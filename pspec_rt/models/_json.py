"""Reading a checkpoint's JSON files; errors name the file, the key and what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError


@dataclass(frozen=True)
class Fields:
    """A JSON object and where it came from (for messages)."""

    raw: Mapping[str, Any]
    source: str

    def has(self, key: str) -> bool:
        """The key is there and not null."""
        return self.raw.get(key) is not None

    def sub(self, raw: Mapping[str, Any], name: str) -> Fields:
        return Fields(raw, f"{self.source}: {name}")

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """A whole number >= minimum; the default stands in for a missing key or null."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise CheckpointError(f"{self.source}: {key} = {value!r}, expected a whole number >= {minimum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise CheckpointError(f"{self.source}: {key} = {value!r}, expected a number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.source}: {key} = {value!r}, expected true or false")
        return value

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids given as one number, a list or nothing."""
        value = self.raw.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise CheckpointError(f"{self.source}: {key} = {value!r}, expected a token id or a list of them")
        return tuple(values)

    def _get(self, key: str, default: Any) -> Any:
        value = self.raw.get(key)
        if value is None and default is None:
            raise CheckpointError(f"{self.source}: {key} is missing")
        return default if value is None else value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises CheckpointError if it is missing or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); is this a model folder?"
        raise CheckpointError(f"{path}: {reason}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
