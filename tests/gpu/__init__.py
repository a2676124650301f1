"""Tests that need an NVIDIA GPU; `python -m bench.gpu --only tests` runs them with all others marked `gpu`."""
