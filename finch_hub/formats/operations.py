"""Which operations cannot use an adapter, by what it has beyond low-rank updates of linear modules."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.peft_config import BEYOND_LOW_RANK

OPERATIONS = (
    "generate", "evaluate", "compose", "train", "merge", "quantize", "export peft", "export merged", "export vllm",
    "export gguf", "export ollama",
)  # fmt: skip
_OTHER_FORMATS = ("export vllm", "export gguf", "export ollama")
# Engines of answers, compositions and trainings know low-rank updates of linear modules only. Merges know all weights.
_WEIGHTS_ONLY = ("generate", "evaluate", "compose", "train", *_OTHER_FORMATS)
UNSUPPORTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        BEYOND_LOW_RANK["use_dora"].name: ("compose", *_OTHER_FORMATS),
        BEYOND_LOW_RANK["modules_to_save"].name: _WEIGHTS_ONLY,
        BEYOND_LOW_RANK["bias"].name: _WEIGHTS_ONLY,
        BEYOND_LOW_RANK["embeddings"].name: _WEIGHTS_ONLY,
        "updates of Conv1D modules": _OTHER_FORMATS,
    }
)
"""Operations that refuse an adapter, by its part."""


def find_limits(adapter: StoredAdapter) -> dict[str, tuple[str, ...]]:
    """Return the operations that refuse an adapter, by the part that they cannot use."""
    parts = [BEYOND_LOW_RANK[field].name for field, places in adapter.beyond_low_rank().items() if places]
    if adapter.config.get("fan_in_fan_out"):
        parts.append("updates of Conv1D modules")
    return {part: UNSUPPORTED[part] for part in parts}
