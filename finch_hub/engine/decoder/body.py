"""Part of a model that computes the last hidden states."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from finch_hub import errors


def find_body(model: PreTrainedModel) -> Any:
    """Return the part of a model that computes the last hidden states.

    For some families, such as the text model of Llama 4, transformers names the model itself.

    Raises:
        Incompatible: no part, or more than one, can be it.
    """
    body = model.get_decoder()
    if body is not model:
        return body
    parts = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if len(parts) != 1:
        raise errors.Incompatible(f"{type(model).__name__} has no part that computes the last hidden states alone")
    return parts[0]
