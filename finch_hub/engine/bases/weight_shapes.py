"""Shapes of a base's weights, read without torch from its configuration and the headers of its weight files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.engine.bases.base import DEFAULT_CONTEXT
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.model_files import read_config, read_shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseShape:
    """Dimensions of a base that decide how much memory it takes.

    Attributes:
        parameters: number of all weights.
        layout: modules as transformers builds them.
        hidden: width of the hidden states.
        inner: width of the inner states of an MLP.
        heads: number of query heads.
        vocabulary: rows of the language-model head.
        layers: number of decoder layers.
        context: context length in tokens.
    """

    parameters: int
    layout: BaseLayout
    hidden: int
    inner: int
    heads: int
    vocabulary: int
    layers: int
    context: int


def read_base_shape(folder: Path, layout: BaseLayout) -> BaseShape | None:
    """Return the shape of the base in a folder, or None if its files do not contain all of it."""
    try:
        config = read_config(folder)
        config = config.get("text_config") or config
        hidden = int(config.get("hidden_size") or config["n_embd"])
        return BaseShape(
            parameters=count_parameters(folder),
            layout=layout,
            hidden=hidden,
            inner=int(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden),
            heads=int(config.get("num_attention_heads") or config["n_head"]),
            vocabulary=int(config["vocab_size"]),
            layers=int(config.get("num_hidden_layers") or config["n_layer"]),
            context=int(config.get("max_position_embeddings") or config.get("n_positions") or DEFAULT_CONTEXT),
        )
    except (ValueError, KeyError, TypeError, OverflowError, errors.NotFound, errors.InvalidInput):
        return None


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in the weight files. Tied parameters are stored, and count, once."""
    return sum(math.prod(shape) for shape in read_shapes(folder).values())
