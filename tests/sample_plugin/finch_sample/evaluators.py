"""Evaluator of answer lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub.specs.examples import Example

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.engine.inference.prompts import Prompt


def brevity(model: GeneratorModel, examples: Sequence[Example], parameters: object) -> dict[str, float]:
    """Return the mean number of words in an answer."""
    prompts: list[Prompt] = [example.messages[:-1] for example in examples]
    answers = model.generate(prompts, max_new_tokens=16)
    return {"words": sum(len(answer.split()) for answer in answers) / len(answers), "examples": len(answers)}
