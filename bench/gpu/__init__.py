"""Everything that needs an NVIDIA GPU to be shown, in one command: `python -m bench.gpu --out DIR`; see `run`."""
