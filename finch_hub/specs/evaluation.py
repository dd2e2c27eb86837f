"""Parameters of the built-in evaluators."""

from __future__ import annotations

import pydantic

from finch_hub.specs.value import MAX_INTEGER, PositiveInt, Value


class EvaluationParameters(Value):
    """Parameters of both evaluators. `system` is the system prompt for examples without one."""

    system: str | None = None


class LossParameters(EvaluationParameters):
    """Parameters of the held-out loss.

    Attributes:
        max_length: maximum number of tokens of an example; None means the base's context, at most 2,048.
    """

    max_length: int | None = pydantic.Field(default=None, ge=8, le=MAX_INTEGER)


class AnswerParameters(EvaluationParameters):
    """Parameters of answer generation.

    Attributes:
        max_new_tokens: maximum number of tokens of an answer; None means twice the longest expected answer of the
            batch, at least 64.
    """

    max_new_tokens: PositiveInt | None = None
