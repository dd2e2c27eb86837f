"""Which operations cannot use an adapter, by what it has beyond low-rank updates of linear modules."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from finch_hub.formats.adapter_folder import StoredAdapter

OPERATIONS = (
    "generate", "evaluate", "compose", "merge", "quantize", "export peft", "export merged", "export vllm",
    "export gguf", "export ollama",
)  # fmt: skip
_OTHER_FORMATS = ("export vllm", "export gguf", "export ollama")
# Engines of answers and compositions know low-rank updates of linear modules only. Merges know all weights.
_WEIGHTS_ONLY = ("generate", "evaluate", "compose", *_OTHER_FORMATS)
UNSUPPORTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DoRA magnitudes": ("compose", *_OTHER_FORMATS),
        "whole modules (modules_to_save)": _WEIGHTS_ONLY,
        "trained biases": _WEIGHTS_ONLY,
        "updates of embeddings": _WEIGHTS_ONLY,
        "updates of Conv1D modules": _OTHER_FORMATS,
    }
)
"""Operations that refuse an adapter, by its part."""
_FIELDS = {
    "use_dora": "DoRA magnitudes",
    "modules_to_save": "whole modules (modules_to_save)",
    "bias": "trained biases",
    "embeddings": "updates of embeddings",
}


def find_limits(adapter: StoredAdapter) -> dict[str, tuple[str, ...]]:
    """Return the operations that refuse an adapter, by the part that they cannot use."""
    parts = [_FIELDS[field] for field, places in adapter.beyond_low_rank().items() if places]
    if adapter.config.get("fan_in_fan_out"):
        parts.append("updates of Conv1D modules")
    return {part: UNSUPPORTED[part] for part in parts}
