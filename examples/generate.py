"""Generate text from one prompt, check it against plain decoding, and look at the statistics.

python examples/generate.py [--target DIR|HUB_ID] [--drafter auto|ngram|DIR]
"""

from __future__ import annotations

import argparse

import pspec_rt
from pspec_rt.hub import demo_model

parser = argparse.ArgumentParser()
parser.add_argument("--target", help="checkpoint folder or hub id (default: the demo model)")
parser.add_argument("--drafter", default="auto")
args = parser.parse_args()

target = pspec_rt.load_target(args.target or demo_model(progress=True))
question = "Repeat this three times: The quick brown fox jumps over the lazy dog while the cat sleeps by the fire."
messages = [{"role": "user", "content": question}]

generator = pspec_rt.Generator(target, args.drafter)
output = generator.generate(messages, max_new_tokens=120)
print(output.text)
print(f"\n{output.stats.tokens_per_s:.1f} tokens/s, {output.stats.mean_acceptance_length:.2f} tokens per round")

# Drafting changes how fast the text comes, never which text comes.
plain = pspec_rt.Generator(target, drafter=None).generate(messages, max_new_tokens=120)
print(f"plain decoding: {plain.stats.tokens_per_s:.1f} tokens/s; same tokens: {plain.token_ids == output.token_ids}")

# Nor when sampling: a seed fixes the text, whoever drafts.
sampled = generator.generate(messages, max_new_tokens=40, temperature=0.8, top_p=0.95, seed=7)
print(f"\nsampled with seed {sampled.seed}: {sampled.text}")
