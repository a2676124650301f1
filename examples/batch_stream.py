"""Stream several prompts, decoded together: chunks of all of them come interleaved.

python examples/batch_stream.py [--target DIR|HUB_ID]
"""

from __future__ import annotations

import argparse

from pspec_rt import Generator
from pspec_rt.hub import demo_model

PROMPTS = ["The capital of France is", "Water boils at", "def fibonacci(n):"]

parser = argparse.ArgumentParser()
parser.add_argument("--target", help="checkpoint folder or hub id (default: the demo model)")
args = parser.parse_args()

generator = Generator(args.target or demo_model(progress=True), max_batch=len(PROMPTS))
for chunk in generator.generate(PROMPTS, max_new_tokens=24, stop="\n\n", stream=True):
    print(f"[{chunk.prompt_index}] {chunk.text!r}")
    if chunk.output is not None:
        print(f"[{chunk.prompt_index}] finished ({chunk.output.finish_reason}): {chunk.output.text!r}")
