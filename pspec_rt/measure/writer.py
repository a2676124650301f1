"""What a target writes: all turns of many questions, answered together at a temperature."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ConfigError
from ..generator import Generator
from ..train.data import Text
from .questions import Question

log = logging.getLogger("pspec_rt")


class Writer:
    """Has the target answer all turns of the questions; its own answers are the history of later turns.

    Args:
        on_answer: called after every answer.

    Attributes:
        skipped: a row for every conversation that breaks off, and why.
    """

    def __init__(
        self, generator: Generator, questions: Sequence[Question], max_new_tokens: int, seed: int,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.generator, self.questions, self.on_answer = generator, questions, on_answer
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.skipped: list[dict[str, Any]] = []

    def write(self, temperature: float) -> list[Text]:
        """The conversations of one temperature, a text per turn, whose kind is the task."""
        texts: list[Text] = []
        said: list[list[dict[str, str]]] = [[] for _ in self.questions]
        going = list(range(len(self.questions)))
        for turn in range(max(len(q.turns) for q in self.questions)):
            prompts: dict[int, list[int]] = {}
            for index in going:
                if turn < len(self.questions[index].turns):
                    said[index].append({"role": "user", "content": self.questions[index].turns[turn]})
                    prompts[index] = self.generator.encode(said[index])
            going = [index for index, ids in prompts.items() if self._fits(index, ids, temperature)]
            for index, (ids, content) in self._answers({i: prompts[i] for i in going}, temperature).items():
                question = self.questions[index]
                said[index].append({"role": "assistant", "content": content})
                texts.append(
                    Text(str(question.question_id), question.task, (*prompts[index], *ids), len(prompts[index]))
                )
        return texts

    def _answers(self, prompts: dict[int, list[int]], temperature: float) -> dict[int, tuple[list[int], str]]:
        """Ids and text of the answer to each question's prompt; an answer does not depend on the other questions."""
        if not prompts:
            return {}
        chunks = self.generator.generate(
            list(prompts.values()), max_new_tokens=self.max_new_tokens, temperature=temperature, top_k=0,
            top_p=1.0, min_p=0.0, seed=[self.seed + index for index in prompts], stream=True,
        )  # fmt: skip
        indices, found = list(prompts), {}
        for output in (chunk.output for chunk in chunks if chunk.output is not None):
            if output.finish_reason == "interrupted":  # half an answer must not be counted
                raise KeyboardInterrupt
            if output.finish_reason == "error":
                raise ConfigError(f"{self.generator.target.name}: the logits became NaN: check the checkpoint")
            found[indices[output.prompt_index]] = output.token_ids, output.text
            self.on_answer()
        return dict(sorted(found.items()))

    def _fits(self, index: int, ids: list[int], temperature: float) -> bool:
        needed, question = len(ids) + self.max_new_tokens, self.questions[index]
        if needed <= self.generator.max_length:
            return True
        reason = f"{len(ids)} prompt tokens + {self.max_new_tokens} exceed {self.generator.max_length}"
        log.warning("question %s breaks off: %s", question.question_id, reason)
        self.skipped.append({"question_id": question.question_id, "temperature": temperature, "reason": reason})
        return False
