"""Training examples in the one form that every data set is brought to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pydantic

from finch_hub import errors
from finch_hub.specs.value import Value

Role = Literal["system", "user", "assistant", "tool"]


class Message(Value):
    """One turn of a conversation; an assistant turn with `learn` off is context and carries no loss."""

    role: Role
    content: str
    learn: bool = True


class Example(Value):
    """A conversation whose assistant turns are learnt, or a plain text that is learnt whole.

    Exactly one of `messages` and `text` is set.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None

    @pydantic.model_validator(mode="after")
    def _can_be_learnt(self) -> Example:
        if self.text is not None:
            if self.messages:
                raise ValueError("has both messages and text")
            if not self.text.strip():
                raise ValueError("text is empty")
        elif not any(m.role == "assistant" and m.learn and m.content.strip() for m in self.messages):
            raise ValueError("has no assistant turn with text, so there is nothing to learn from")
        elif not any(m.role in ("user", "system") and m.content.strip() for m in self.messages):
            raise ValueError("has no prompt: no user or system turn with text")
        return self

    @classmethod
    def of_pair(cls, prompt: str, completion: str, system: str | None = None) -> Example:
        """Make the conversation of one prompt and its completion."""
        turns = [Message(role="system", content=system)] if system else []
        turns += [Message(role="user", content=prompt), Message(role="assistant", content=completion)]
        return cls(messages=tuple(turns))


Pairs = Iterable["Example | tuple[str, str] | Mapping[str, Any]"]


def examples_of(items: Pairs) -> tuple[Example, ...]:
    """Bring (prompt, completion) tuples, mappings with these keys or with `messages`, and examples to examples.

    Raises:
        InvalidDataset: with one problem for each item that is wrong, by its position from 1.

    """
    found: list[Example] = []
    problems: list[errors.Problem] = []
    for number, item in enumerate(items, start=1):
        try:
            if isinstance(item, Example):
                found.append(item)
            elif isinstance(item, Mapping) and "prompt" in item and "completion" in item:
                found.append(Example.of_pair(item["prompt"], item["completion"], item.get("system")))
            elif isinstance(item, Mapping):
                found.append(Example.of(dict(item)))
            else:
                prompt, completion = item
                found.append(Example.of_pair(prompt, completion))
        except errors.InvalidSpec as error:
            what = "; ".join(problem.what for problem in error.problems)
            problems.append(errors.Problem(where=f"example {number}", what=what))
        except (TypeError, ValueError):
            problems.append(
                errors.Problem(
                    where=f"example {number}", what="is no pair", fix="give (prompt, completion) of two texts"
                )
            )
    if not found and not problems:
        problems.append(errors.Problem(what="there are no examples", fix="give at least one"))
    if problems:
        raise errors.InvalidDataset(problems, subject="examples")
    return tuple(found)
