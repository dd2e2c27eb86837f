"""Modules of a base as transformers builds them, read without torch if the checkpoint tells them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.engine.bases.json_cache import JsonCache
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.model_files import read_config, read_shapes
from finch_hub.formats.parsing_process import Limits, parse
from finch_hub.formats.regular_files import read_regular_file

# In these families, the names in the checkpoint are those in memory, and every matrix but the embedding is a linear
# module. A test compares them with transformers.
PLAIN_FAMILIES = frozenset(
    {
        "cohere", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3",
        "smollm3", "starcoder2",
    }
)  # fmt: skip
_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"
_CACHE_FILE = "layouts.json"
_BUILDER = "finch_hub.engine.bases.layout_builder"
_LIMITS = Limits(memory=4 * 2**30, seconds=300)


def read_layout(folder: Path, *, name: str, cache: Path | None = None) -> BaseLayout:
    """Return the modules of the base in a folder.

    The names of a checkpoint do not always tell them: experts are stored one by one and fused in memory, and a model
    without its head is stored without the prefix of its layers. Then transformers builds the model in a process of its
    own, without memory for weights. That takes seconds, once for each configuration.

    Args:
        name: name of the base in errors.
        cache: folder in which the layouts that transformers built are stored; None stores nothing.

    Raises:
        Incompatible: transformers cannot build the model.
        RefusedArtifact: a weight file is damaged.
        InvalidInput: the config or the index of the weights is damaged.
    """
    config = read_config(folder)
    layout = _read_checkpoint(folder, config) or _ask_transformers(folder, name, cache)
    return replace(layout, name=name, folder=folder)


def _read_checkpoint(folder: Path, config: Mapping[str, Any]) -> BaseLayout | None:
    """Return the layout of a plain family, None if the checkpoint does not tell it."""
    if config.get("model_type") not in PLAIN_FAMILIES or config.get("quantization_config"):
        return None
    shapes = {name: shape for name, shape in read_shapes(folder).items() if not name.endswith(".inv_freq")}
    embedding = shapes.get(f"{_EMBEDDING}.weight")
    if embedding is None or not all(name.startswith(("model.", f"{_HEAD}.")) for name in shapes):
        return None
    shapes.setdefault(f"{_HEAD}.weight", embedding)  # a tied head is not stored
    if any(len(shape) > 2 for shape in shapes.values()):
        return None
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 2}
    return BaseLayout(
        name="",
        linear={path: (rows, columns) for path, (rows, columns) in matrices.items() if path != _EMBEDDING},
        embeddings={_EMBEDDING: (embedding[0], embedding[1])},
        parameters=shapes,
        head=_HEAD,
        model_type=str(config["model_type"]),
    )


def _ask_transformers(folder: Path, name: str, cache: Path | None) -> BaseLayout:
    config = hashlib.sha256(read_regular_file(folder / "config.json")).hexdigest()
    key = f"2:{importlib.metadata.version('transformers')}:{config}"
    layouts = JsonCache(cache, _CACHE_FILE)
    found: Any = layouts.get(key)
    if found is None:
        options: Any = {"limits": _LIMITS, "error": errors.Incompatible, "libraries": (_BUILDER,)}
        (text,) = parse(_build, str(folder), name, subject=f"base model {name}", **options)
        found = json.loads(text)
        layouts.put(key, found)
    return BaseLayout.of_json(found)


def _build(folder: str, name: str) -> Iterator[str]:
    """Yield the layout as JSON, built by transformers. A config can declare a billion layers."""
    yield json.dumps(importlib.import_module(_BUILDER).build_layout(Path(folder), name=name).to_json())
