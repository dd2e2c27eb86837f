"""How text is sampled from a model."""

from __future__ import annotations

import pydantic

from finch_hub.specs.value import Value


class GenerationConfig(Value):
    """Sampling of one answer.

    Attributes:
        max_new_tokens: length of the answer at most.
        temperature: logits are divided by it; 0 always takes the likeliest token.
        top_p: sample from the smallest set of tokens whose probabilities sum to it (nucleus, arXiv 1904.09751).

    """

    max_new_tokens: pydantic.PositiveInt = 256
    temperature: float = pydantic.Field(default=0.0, ge=0)
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
