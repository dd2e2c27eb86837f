"""Training examples, the form into which every data set is converted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pydantic

from finch_hub import errors
from finch_hub.specs.value import Value

Role = Literal["system", "user", "assistant", "tool"]


class Message(Value):
    """A turn of a conversation. An assistant turn with `learn` off is context without loss."""

    role: Role
    content: str
    learn: bool = True


class Example(Value):
    """A conversation whose assistant turns are learned, or a plain text.

    Exactly one of `messages` and `text` is set.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None

    @pydantic.model_validator(mode="after")
    def _can_be_learned(self) -> Example:
        if self.text is not None:
            if self.messages:
                raise ValueError("has both messages and text")
            if not self.text.strip():
                raise ValueError("text is empty")
        elif not any(m.role == "assistant" and m.learn and m.content.strip() for m in self.messages):
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


Pairs = Iterable["Example | tuple[str, str] | Mapping[str, Any]"]


def examples_of(items: Pairs) -> tuple[Example, ...]:
    """Convert items to examples.

    Args:
        items: examples, (prompt, completion) pairs, or mappings with these keys or with `messages`.

    Raises:
        InvalidDataset: some items are invalid; each problem names a position, counted from 1.
    """
    examples: list[Example] = []
    problems: list[errors.Problem] = []
    for number, item in enumerate(items, start=1):
        try:
            if isinstance(item, Example):
                examples.append(item)
            elif isinstance(item, Mapping) and "prompt" in item and "completion" in item:
                examples.append(Example.of_pair(item["prompt"], item["completion"], item.get("system")))
            elif isinstance(item, Mapping):
                examples.append(Example.of(dict(item)))
            else:
                prompt, completion = item
                examples.append(Example.of_pair(prompt, completion))
        except errors.InvalidSpec as error:
            what = "; ".join(problem.what for problem in error.problems)
            problems.append(errors.Problem(where=f"example {number}", what=what))
        except (TypeError, ValueError):
            reason = "is not a (prompt, completion) pair"
            problems.append(errors.Problem(where=f"example {number}", what=reason, fix="give two strings"))
    if not examples and not problems:
        problems.append(errors.Problem(what="there are no examples", fix="give at least one example"))
    if problems:
        raise errors.InvalidDataset(problems, subject="examples")
    return tuple(examples)
