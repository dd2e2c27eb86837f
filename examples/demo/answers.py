"""Answers of the base and of adapters to the same questions, from one loaded base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from finch_hub import Hub
from finch_hub.specs.examples import Message

if TYPE_CHECKING:
    from finch_hub.engine.inference.prompts import Prompt


class Question(NamedTuple):
    """A question to one adapter and the base, with the system prompt of the adapter's training."""

    name: str
    text: str
    system: str | None


def generate(
    hub: Hub, base: str, references: Mapping[str, str], questions: Sequence[Question], *, max_new_tokens: int
) -> list[dict[str, str]]:
    """Generate all answers in one batch, in which each row has an adapter of its own or none."""
    adapters = [references[question.name] for question in questions]
    print(f">>> model = hub.generator({base!r}, {adapters})", flush=True)
    model = hub.generator(base, adapters)
    print(">>> model.generate(2 * questions, adapter=[None, …, *adapters], …)", flush=True)
    prompts: list[Prompt] = [
        (
            *([Message(role="system", content=question.system)] if question.system else []),
            Message(role="user", content=question.text),
        )
        for question in questions
    ]
    texts = model.generate(2 * prompts, adapter=[*[None] * len(prompts), *adapters], max_new_tokens=max_new_tokens)
    tokenizer = model.base.tokenizer
    texts = [
        f"{text} …" if len(tokenizer.encode(text, add_special_tokens=False)) >= max_new_tokens else text
        for text in texts
    ]  # cut answers
    pairs = zip(questions, texts[: len(prompts)], texts[len(prompts) :], strict=True)
    return [
        {"name": question.name, "question": question.text, "base": before, "adapter": after}
        for question, before, after in pairs
    ]
