"""How much memory a training takes, from shapes alone: free of torch, so that it is known when a job is submitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from finch_hub.engine.bases import target_modules
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

_PREPARED_BYTES = 4 * 2**30  # as in `finch_hub.engine.decoder.frozen_linear`
# Python with torch, transformers and peft, measured: what a child takes before it has loaded anything.
_PROCESS_BYTES = 480 * 2**20
_LOGIT_ROWS = 128  # as in `finch_hub.engine.decoder.loss`
_WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.1, "nf4": 0.6}
_CONTEXT = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the memory of a base depends on.

    Attributes:
        parameters: of all weights.
        modules: path and (out, in) of every linear module.
        hidden: width of the hidden states.
        inner: width between the two halves of an MLP.
        heads: of queries.
        vocabulary: rows of the language-model head.
        layers: decoder layers.
        context: tokens that the model was made for.

    """

    parameters: int
    modules: Mapping[str, tuple[int, int]]
    hidden: int
    inner: int
    heads: int
    vocabulary: int
    layers: int
    context: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMemory:
    """Peak memory of one training in bytes, by what it is for."""

    process: int
    weights: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(getattr(self, part.name) for part in fields(self))


def shape_of(folder: Path) -> Shape | None:
    """Read a base's shape from its configuration and the headers of its weights; None where they don't say it."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        config = config.get("text_config", config)
        modules = target_modules.linear_modules(folder)
        hidden = int(config["hidden_size"])
        return Shape(
            parameters=target_modules.parameter_count(folder),
            modules=modules,
            hidden=hidden,
            inner=int(config.get("intermediate_size") or 4 * hidden),
            heads=int(config["num_attention_heads"]),
            vocabulary=int(config["vocab_size"]),
            layers=int(config["num_hidden_layers"]),
            context=int(config.get("max_position_embeddings") or _CONTEXT),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def training_memory(
    shape: Shape, lora: LoRAConfig, training: TrainingConfig, *, longest: int, cuda: bool = False
) -> TrainingMemory:
    """Estimate the peak memory of a training; between the truth and twice it (`tests/unit/engine/test_memory.py`).

    Args:
        shape: of the base.
        lora: of the adapter.
        training: batch, dtype and whether activations are computed again.
        longest: tokens of the longest example.
        cuda: on CUDA "auto" computes in 16 bits; elsewhere it may have to compute in 32.

    """
    dtype = training.dtype if training.dtype != "auto" else "bfloat16" if cuda else "float32"
    width = _WIDTHS[dtype]
    computed = max(2.0, width)  # quantised weights are computed with in 16 bits
    longest = min(longest, training.max_length or min(shape.context, _CONTEXT))
    tokens = training.batch_size * longest
    if training.batch_tokens is not None:
        tokens = max(longest, min(tokens, training.batch_tokens))
    trained = target_modules.adapter_parameters(lora, shape.modules)
    # Parameters, gradients, both moments, the best ones so far, and the copy that a checkpoint is written from.
    optimizer = 4 * trained * 8
    # What a layer keeps for its backward pass: two inputs and their norms, queries, keys, values, the attention's
    # weights and result, and the MLP's inner states. On the way through a layer and back its gradients come on top,
    # and the softmax is computed in 32 bits.
    rows = tokens * (8 * shape.hidden + 4 * shape.inner) * computed
    scores = tokens * longest * shape.heads
    layer = rows + scores * computed
    passing = 2 * rows + scores * 12
    if training.gradient_checkpointing:
        activations = tokens * shape.hidden * computed * shape.layers + layer + passing
    else:
        activations = layer * shape.layers + passing
    logits = _LOGIT_ROWS * shape.vocabulary * (2 * computed + 8)
    weights = shape.parameters * width
    if not cuda and training.packing:
        # Copies laid out for products in both directions.
        prepared = 2 * sum(out * into for out, into in shape.modules.values()) * width
        weights += prepared if prepared <= _PREPARED_BYTES else 0
    if not cuda:
        head = 2 * shape.vocabulary * shape.hidden * width
        weights += head if head <= _PREPARED_BYTES else 0
    return TrainingMemory(
        process=_PROCESS_BYTES,
        weights=int(weights),
        optimizer=int(optimizer),
        activations=int(activations),
        logits=int(logits),
    )
