"""Prompts of a generator, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.chat import ChatTemplate, Conversation, with_system
from finch_hub.engine.data.row_time import limit_tokenizing
from finch_hub.engine.data.tokenizing import check_known, tokenize_prompt
from finch_hub.formats.config_fields import shorten
from finch_hub.specs.examples import Message

Prompt = str | tuple[Message, ...] | Conversation
"""A user's turn, or a conversation, also with tools. A list of prompts is a batch."""


def tokenize_prompts(
    prompts: Sequence[Prompt], base: Base, *, systems: Sequence[str | None], thinking: Sequence[bool]
) -> list[list[int]]:
    """Render each prompt with the chat template, led by its system prompt unless it has one, and tokenize it.

    The bytes are those that a training has before its answers.

    Args:
        systems: system prompt of each prompt that has none.
        thinking: whether to ask for reasoning, for each prompt; see :class:`Conversation`.

    Raises:
        InvalidSpec: no prompts, or prompts that are of another type, are empty, fill the model's context or do not fit
            the chat template, all of them by number.
        TimeLimitReached: the chat template or the tokenizer has no end.
    """
    if not prompts:
        raise errors.InvalidSpec("there are no prompts", fix="give at least one")
    template = ChatTemplate(base.tokenizer)
    tokenized, problems = [], []
    for number, (prompt, system, is_thinking) in enumerate(zip(prompts, systems, thinking, strict=True), start=1):
        conversation = _to_conversation(prompt, thinking=is_thinking)
        if conversation is None:
            what = f"is {shorten(prompt)}, not a text or a conversation"
            fix = "give a text, or a tuple of Message(role=…, content=…)"
            problems.append(errors.Problem(where=f"prompt {number}", what=what, fix=fix))
            continue
        if not any(turn.content.strip() for turn in conversation.messages):
            problems.append(errors.Problem(where=f"prompt {number}", what="is empty"))
            continue
        conversation = conversation._replace(messages=with_system(conversation.messages, system))
        try:
            with limit_tokenizing(f"prompt {number}"):
                tokens = tokenize_prompt(conversation, template)
            check_known(tokens, base.num_embeddings)
        except errors.Incompatible as error:
            problems += [replace(problem, where=f"prompt {number}") for problem in error.problems]
            continue
        if len(tokens) >= base.context:
            what = f"has {len(tokens)} tokens, but the model's context is {base.context}"
            problems.append(errors.Problem(where=f"prompt {number}", what=what, fix="shorten it"))
        tokenized.append(tokens)
    if problems:
        raise errors.InvalidSpec(problems, subject="prompts")
    return tokenized


def check_system_and_seed(*, system: object, seed: object) -> None:
    """Refuse a system prompt or a seed of another type.

    Raises:
        InvalidSpec: with each of them.
    """
    problems = []
    if not isinstance(system, str | None):
        problems.append(errors.Problem(where="system", what=f"is {shorten(system)}, not a text"))
    if not isinstance(seed, int | None):
        problems.append(errors.Problem(where="seed", what=f"is {shorten(seed)}, not an integer"))
    if problems:
        raise errors.InvalidSpec(problems, subject="generate")


def _to_conversation(prompt: object, *, thinking: bool) -> Conversation | None:
    """Return the conversation of a prompt, None if it has another type."""
    if isinstance(prompt, Conversation):
        return prompt
    if isinstance(prompt, str):
        return Conversation((Message(role="user", content=prompt),), thinking=thinking)
    if isinstance(prompt, tuple) and all(isinstance(turn, Message) for turn in prompt):
        return Conversation(prompt, thinking=thinking)
    return None
