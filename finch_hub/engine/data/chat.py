"""Conversations as the text that a model reads: one way for training and for generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.specs.examples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation: bool) -> str:
    """Write a conversation with the tokenizer's chat template.

    Without a template the turns are joined by newlines. Where a template refuses the system role, that turn's text is
    put before the first user turn. Models that reason are told not to, where their template can be told.

    Args:
        tokenizer: of the base.
        messages: at least one.
        generation: end with what begins the assistant's turn, so that the model answers.

    Raises:
        Incompatible: the template cannot write these turns, for instance because their roles do not alternate.

    """
    if tokenizer.chat_template is None:
        return "\n".join(message.content for message in messages) + ("\n" if generation else "")
    turns = list(messages)
    attempts = [turns]
    if turns[0].role == "system" and len(turns) > 1 and turns[1].role == "user":
        attempts.append([Message(role="user", content=f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]])
    for attempt in attempts:
        try:
            return _apply(tokenizer, attempt, generation)
        except Exception as error:  # a template is a program: it raises what it likes
            problem = error
    roles = ", ".join(message.role for message in messages)
    raise errors.Incompatible(
        errors.Problem(what=f"the chat template cannot write the turns {roles}: {problem}")
    ) from problem


def _apply(tokenizer: Any, turns: Sequence[Message], generation: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in turns],
            tokenize=False,
            add_generation_prompt=generation,
            enable_thinking=False,
        )
    )
