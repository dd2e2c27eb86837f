"""Shapes of a base's weights, read without torch from its configuration and the headers of its weight files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.engine.bases.base import DEFAULT_CONTEXT
from finch_hub.engine.bases.target_modules import is_embedding
from finch_hub.formats.safetensors_header import read_shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseShape:
    """Dimensions of a base that decide how much memory it takes.

    Attributes:
        parameters: number of all weights.
        modules: shape (out, in) of every linear module, by its path.
        hidden: width of the hidden states.
        inner: width of the inner states of an MLP.
        heads: number of query heads.
        vocabulary: rows of the language-model head.
        layers: number of decoder layers.
        context: context length in tokens.
    """

    parameters: int
    modules: Mapping[str, tuple[int, int]]
    hidden: int
    inner: int
    heads: int
    vocabulary: int
    layers: int
    context: int


def read_base_shape(folder: Path) -> BaseShape | None:
    """Return the shape of the base in a folder, or None if its files do not contain all of it."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        config = config.get("text_config", config)
        hidden = int(config["hidden_size"])
        return BaseShape(
            parameters=count_parameters(folder),
            modules=read_linear_modules(folder),
            hidden=hidden,
            inner=int(config.get("intermediate_size") or 4 * hidden),
            heads=int(config["num_attention_heads"]),
            vocabulary=int(config["vocab_size"]),
            layers=int(config["num_hidden_layers"]),
            context=int(config.get("max_position_embeddings") or DEFAULT_CONTEXT),
        )
    except (OSError, ValueError, KeyError, TypeError, errors.RefusedArtifact):
        return None


def read_linear_modules(folder: Path) -> dict[str, tuple[int, int]]:
    """Return path and shape (out, in) of every linear module except the language-model head."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in read_shapes(folder).items()
        if name.endswith(".weight") and len(shape) == 2 and not is_embedding(name.removesuffix(".weight"))
    }


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in the weight files. Tied parameters are stored, and count, once."""
    return sum(math.prod(shape) for shape in read_shapes(folder).values())
