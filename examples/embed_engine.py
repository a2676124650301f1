"""The engine inside a server's loop: requests join and leave while others run.

    python examples/embed_engine.py [--target DIR|HUB_ID]

`Engine` knows token ids and slots only. Queueing, text and clients are the caller's, as here.
"""

from __future__ import annotations

import argparse
from collections import deque

from pspec_rt import Engine, SamplingParams, load_target
from pspec_rt.drafters.registry import find_drafter
from pspec_rt.hub import demo_model
from pspec_rt.tokenizer import StreamDecoder, Tokenizer

QUESTIONS = ["What is the capital of Italy?", "Name three colours.", "What is 2 + 2?", "Say hello in French."]

parser = argparse.ArgumentParser()
parser.add_argument("--target", help="checkpoint folder or hub id (default: the demo model)")
args = parser.parse_args()

target = load_target(args.target or demo_model(progress=True))
tokenizer = Tokenizer(target.path)
engine = Engine(target, find_drafter("auto", target), max_batch=2, max_length=256)

waiting = deque(enumerate(QUESTIONS))
running: dict[int, tuple[int, StreamDecoder]] = {}  # slot -> (question, its decoder)
texts = [""] * len(QUESTIONS)

while waiting or running:
    while waiting and engine.free_slots:  # admit whoever fits; the prompt is taken in chunk by chunk, by `step`
        number, question = waiting.popleft()
        prompt_ids = tokenizer.encode_chat([{"role": "user", "content": question}])
        slot = engine.add(prompt_ids, SamplingParams(max_new_tokens=48))
        running[slot] = (number, StreamDecoder(tokenizer))
    for output in engine.step():  # one round for every slot that has its prompt in
        number, decoder = running[output.slot]
        texts[number] += decoder.push(output.token_ids)
        if output.finish_reason is not None:
            texts[number] += decoder.flush()
            stats = engine.release(output.slot)  # the slot is free for the next request
            del running[output.slot]
            print(f"{QUESTIONS[number]}\n  {texts[number]!r}\n  {stats.mean_acceptance_length:.2f} tokens per round\n")
