"""Greedy text equals Hugging Face transformers' `generate` in fp32, token for token, on the real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pspec_rt.generator import Generator

QUESTIONS = [
    "What is the capital of Portugal, and on which river does it lie?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Tom has 12 apples, gives 5 away and buys 7 more. How many does he have? Think step by step.",
    "Summarize: The quick brown fox jumps over the lazy dog. The dog sleeps on. The fox runs into the forest.",
    "Translate to French: The weather is nice today.",
    "List five uses of copper.",
    "Explain photosynthesis to a child.",
    "Write a haiku about the sea.",
    "Who wrote Hamlet, and when?",
    "Give me a recipe for pancakes.",
    "What is the difference between TCP and UDP?",
    "Write an email asking for a day off.",
    "Compute 17 * 23.",
    "Name three planets and one fact about each.",
    "What does the word 'ubiquitous' mean? Use it in a sentence.",
    "Write a short story that begins with: The door was open.",
    "How do vaccines work?",
    'Correct the grammar: "He go to school yesterday."',
    "What are the advantages and disadvantages of remote work?",
    "Write a SQL query that counts orders per customer.",
]
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def models(smollm2: Path) -> Iterator[tuple[Generator, Generator, Any]]:
    """(plain, n-gram drafting, transformers), all fp32."""
    from transformers import AutoModelForCausalLM

    plain = Generator(smollm2, drafter=None, dtype="fp32", device="cpu", max_length=512)
    drafting = Generator(plain.target, drafter="ngram", max_length=512)
    yield plain, drafting, AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)


def check(models: tuple[Generator, Generator, Any], question: str) -> None:
    plain, drafting, reference = models
    prompt = plain.encode([{"role": "user", "content": question}])
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        expected = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
        )[0, len(prompt) :].tolist()
    assert plain.generate(prompt, max_new_tokens=NEW_TOKENS, temperature=0.0).token_ids == expected
    assert drafting.generate(prompt, max_new_tokens=NEW_TOKENS, temperature=0.0).token_ids == expected


@pytest.mark.parametrize("question", QUESTIONS[:4])
def test_greedy_text_equals_transformers(models: tuple[Generator, Generator, Any], question: str) -> None:
    check(models, question)


@pytest.mark.full
@pytest.mark.parametrize("question", QUESTIONS[4:])
def test_greedy_text_equals_transformers_everywhere(models: tuple[Generator, Generator, Any], question: str) -> None:
    check(models, question)


SAMPLINGS = [{}, {"temperature": 0.8, "top_p": 0.9}, {"temperature": 1.0}]


def check_bits(smollm2: Path, prompts: list[str], max_new_tokens: int, options: dict[str, float]) -> None:
    """The real model in bf16: text with drafting, trees and batches equals plain text."""
    plain = Generator(smollm2, drafter=None, dtype="bf16", device="cpu", max_length=512)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    expected = [output.token_ids for output in plain.generate(chats, max_new_tokens=max_new_tokens, seed=5, **options)]
    for tree in ("chain", "best-first:12"):
        drafting = Generator(plain.target, drafter="ngram", tree=tree, k=5, max_batch=2, max_length=512)
        got = drafting.generate(chats, max_new_tokens=max_new_tokens, seed=5, **options)
        assert [output.token_ids for output in got] == expected


@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
def test_drafting_changes_no_bit_in_bf16(smollm2: Path, options: dict[str, float]) -> None:
    check_bits(smollm2, QUESTIONS[1:6], 64, options)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
def test_drafting_changes_no_bit_in_bf16_over_many_prompts(smollm2: Path, options: dict[str, float]) -> None:
    prefixes = ("", "Answer in one sentence. ", "Repeat the question, then answer it. ")
    check_bits(smollm2, [prefix + q for prefix in prefixes for q in QUESTIONS][:50], 128, options)
