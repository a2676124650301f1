"""Every error a user can cause, as subclasses of one base class; broken invariants are asserts, not these."""

from __future__ import annotations


class PspecError(Exception):
    """Base of all errors raised by pspec_rt for bad input; the message names the thing and the fix."""


class CheckpointError(PspecError):
    """A checkpoint is missing, truncated, of an unknown architecture or otherwise unusable."""


class DrafterMismatchError(CheckpointError):
    """A drafter does not fit the target (vocabulary, hidden size, tapped layers)."""


class RequestError(PspecError, ValueError):
    """A request cannot be served as given (empty prompt, over capacity, bad sampling value)."""


class ConfigError(PspecError, ValueError):
    """An option of the runtime itself is wrong (tree, K, dtype, backend, environment variable)."""


class CaptureError(PspecError):
    """A round cannot be captured as a graph; the message names the op that stands in the way."""
