"""The end-to-end measurement: speed, acceptance and equality of output, against plain decoding and peers."""

from __future__ import annotations

from .run import BenchConfig, Report, measure

__all__ = ["BenchConfig", "Report", "measure"]
