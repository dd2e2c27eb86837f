"""Training examples, the form into which every data set is converted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import pydantic

from finch_hub.specs.value import JsonObject, Value

Role = Literal["system", "user", "assistant", "tool"]


class Message(Value):
    """A turn of a conversation.

    Attributes:
        learn: whether an assistant turn is learned; otherwise it is context without loss.
        reasoning: what an assistant thought before it answered (`reasoning_content`).
        tool_calls: calls of an assistant in OpenAI's form, their arguments as objects:
            ``{"type": "function", "function": {"name", "arguments"}}``.
        name: name of the tool that a tool turn comes from, or of the speaker.
        tool_call_id: call that a tool turn answers.
    """

    role: Role
    content: str
    learn: bool = True
    reasoning: str | None = None
    tool_calls: tuple[JsonObject, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the turn has no text, no reasoning and no tool call."""
        return not (self.content.strip() or (self.reasoning or "").strip() or self.tool_calls)


class Example(Value):
    """A conversation whose assistant turns are learned, or a plain text.

    Exactly one of `messages` and `text` is set.

    Attributes:
        tools: JSON schemas of the tools that the assistant may call, in OpenAI's form.
        documents: documents that the answers rest on, each with `title` and `text`.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: tuple[JsonObject, ...] = ()
    documents: tuple[JsonObject, ...] = ()

    @pydantic.model_validator(mode="after")
    def _can_be_learned(self) -> Example:
        if self.text is not None:
            if self.messages:
                raise ValueError("has both messages and text")
            if not self.text.strip():
                raise ValueError("text is empty")
        elif not any(m.role == "assistant" and m.learn and not m.is_empty for m in self.messages):
            raise ValueError("has no assistant turn with text, so that there is nothing to learn")
        elif not any(m.role in ("user", "system") and m.content.strip() for m in self.messages):
            raise ValueError("has no prompt: no user or system turn with text")
        return self

    @classmethod
    def of_pair(cls, prompt: str, completion: str, system: str | None = None) -> Example:
        """Return the conversation of a prompt and its completion."""
        turns = [Message(role="system", content=system)] if system else []
        turns += [Message(role="user", content=prompt), Message(role="assistant", content=completion)]
        return cls(messages=tuple(turns))


Rows = Iterable[Any]
"""Rows as values: examples, (prompt, completion) pairs, mappings of columns, or a table of them."""
