"""Settings of text generation."""

from __future__ import annotations

import pydantic

from finch_hub.specs.value import PositiveInt, Value


class GenerationConfig(Value):
    """Settings for sampling an answer.

    Attributes:
        max_new_tokens: maximum number of tokens of the answer.
        temperature: divisor of the logits; 0 always takes the likeliest token.
        top_p: probability mass of the smallest set of tokens to sample from (nucleus, arXiv 1904.09751).
    """

    max_new_tokens: PositiveInt = 256
    temperature: float = pydantic.Field(default=0.0, ge=0)
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
