"""Hugging Face transformers with its own assisted decoding, by prompt lookup: its counterpart of our drafting."""

from __future__ import annotations

from .contender import Contender
from .peer_transformers import TransformersContender
from .peers import PeerSetup

LOOKUP_TOKENS = 10  # drafted per step, as in transformers' own examples


def make(setup: PeerSetup) -> Contender:
    """Load the model once more, so that the two transformers contenders share no state."""
    return TransformersContender(setup, "transformers_assisted", prompt_lookup_num_tokens=LOOKUP_TOKENS)
