"""Prompts of a generator, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data import chat
from finch_hub.specs.examples import Message

Prompt = str | tuple[Message, ...]
"""A user's turn, or a conversation. A list of prompts is a batch."""


def tokenize_prompts(prompts: Sequence[Prompt], base: Base, *, systems: Sequence[str | None]) -> list[list[int]]:
    """Render each prompt with the chat template, led by its system prompt unless it has one, and tokenize it.

    Raises:
        InvalidSpec: no prompts, or prompts that are empty or fill the model's context, all of them by number.
    """
    if not prompts:
        raise errors.InvalidSpec("there are no prompts", fix="give at least one")
    tokenized, problems = [], []
    for number, (prompt, system) in enumerate(zip(prompts, systems, strict=True), start=1):
        turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
        if system and turns and turns[0].role != "system":
            turns.insert(0, Message(role="system", content=system))
        if not any(turn.content.strip() for turn in turns):
            problems.append(errors.Problem(where=f"prompt {number}", what="is empty"))
            continue
        text = chat.render(base.tokenizer, turns, generation=True)
        # A chat template has written the special tokens already. Without a template, the tokenizer adds its own.
        tokens = base.tokenizer(text, add_special_tokens=base.tokenizer.chat_template is None)["input_ids"]
        if len(tokens) >= base.context:
            what = f"has {len(tokens)} tokens, but the model's context is {base.context}"
            problems.append(errors.Problem(where=f"prompt {number}", what=what, fix="shorten it"))
        tokenized.append(list(tokens))
    if problems:
        raise errors.InvalidSpec(problems, subject="prompts")
    return tokenized
