"""What can be asked of the built-in evaluators."""

from __future__ import annotations

import pydantic

from finch_hub.specs.value import Value


class EvaluationParameters(Value):
    """What both evaluators take.

    Attributes:
        system: system prompt of the examples that have none.

    """

    system: str | None = None


class LossParameters(EvaluationParameters):
    """How the held-out loss is measured.

    Attributes:
        max_length: tokens of an example, as in training; None takes the base's context, 2,048 at most.

    """

    max_length: int | None = pydantic.Field(default=None, ge=8)


class AnswerParameters(EvaluationParameters):
    """How answers are generated.

    Attributes:
        max_new_tokens: of an answer; None gives the longest expected one of its batch twice its length, 64 at least.

    """

    max_new_tokens: pydantic.PositiveInt | None = None
