"""Rotary positions (arXiv 2104.09864) whose frequencies depend on the length of the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# "longrope" switches its factors at a length (arXiv 2402.13753). "dynamic" recomputes them for every longer input.
_DEPENDENT = frozenset({"longrope", "dynamic"})


def depends_on_length(model: PreTrainedModel) -> bool:
    """Return whether the longest row of a batch decides the positions of all rows."""
    return any(fields.get("rope_type") in _DEPENDENT for fields in _rope_fields(model))


def switch_length(model: PreTrainedModel) -> int | None:
    """Return the length beyond which transformers computes the whole input again, None for other models."""
    length = getattr(model.config, "original_max_position_embeddings", None)
    return int(length) if length and depends_on_length(model) else None


def reset_rope(model: PreTrainedModel) -> None:
    """Forget the length of earlier inputs, which dynamic positions keep."""
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            rope: Any = module
            rope.inv_freq = rope.original_inv_freq
            rope.max_seq_len_cached = rope.original_max_seq_len


def _rope_fields(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Yield the parameters of each kind of layer, or of all layers."""
    fields = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    yield from (fields, *(value for value in fields.values() if isinstance(value, dict)))
