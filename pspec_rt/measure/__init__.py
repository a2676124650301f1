"""One end-to-end measurement: questions in; speed, acceptance and proof of equal output, against plain decoding and peers."""

from __future__ import annotations

from .run import BenchConfig, Report, measure

__all__ = ["BenchConfig", "Report", "measure"]
