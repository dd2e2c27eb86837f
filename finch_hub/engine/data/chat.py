"""Rendering of conversations as text, the same way for training and for generation.

:mod:`finch_hub.engine.data.tokenizing` turns the text into tokens, and marks those to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.specs.examples import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation: bool) -> str:
    """Render a conversation with the tokenizer's chat template.

    Without a template, turns are joined by newlines. If a template refuses the system role, the system prompt goes
    before the first user turn. Templates with a switch for reasoning have it off.

    Args:
        tokenizer: tokenizer of the base.
        messages: at least one turn.
        generation: whether the text ends with the header of an assistant turn, so that the model answers.

    Raises:
        Incompatible: the template cannot render these turns, for example because their roles do not alternate.
    """
    if tokenizer.chat_template is None:
        return "\n".join(message.content for message in messages) + ("\n" if generation else "")
    turns = list(messages)
    attempts = [turns]
    if turns[0].role == "system" and len(turns) > 1 and turns[1].role == "user":
        attempts.append([Message(role="user", content=f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]])
    for attempt in attempts:
        try:
            return str(
                tokenizer.apply_chat_template(
                    [{"role": turn.role, "content": turn.content} for turn in attempt],
                    tokenize=False,
                    add_generation_prompt=generation,
                    enable_thinking=False,
                )
            )
        except Exception as error:  # a template is a program that can raise any exception
            problem = error
    roles = ", ".join(message.role for message in messages)
    what = f"the chat template cannot render the turns {roles}: {problem}"
    raise errors.Incompatible(what) from problem
