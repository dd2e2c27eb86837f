"""Peak memory of a training on a base, estimated from shapes without torch, so that it is known at submit."""

from __future__ import annotations

from dataclasses import dataclass, fields

from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.base import default_max_length
from finch_hub.engine.bases.weight_shapes import BaseShape
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

# Limit of prepacked weights in bytes (`engine.decoder.frozen_linear`), once for the layers and once for the head. It is
# a constant, because a limit by the machine's free memory would change the bytes of trained adapters.
PREPACKED_BYTES = 4 * 2**30
# A child process with torch, transformers and peft, before it has loaded a model (measured).
_PROCESS_BYTES = 480 * 2**20
# Most rows of logits at once: products run at full speed, and most vocabularies take 200 KB a row.
LOGIT_ROWS = 128
_WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.1, "nf4": 0.6}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingMemory:
    """Peak memory of one training in bytes, by purpose."""

    process: int
    weights: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum of all purposes."""
        return sum(getattr(self, part.name) for part in fields(self))


def estimate_training_memory(
    shape: BaseShape, lora: LoRAConfig, training: TrainingConfig, *, longest: int, cuda: bool = False
) -> TrainingMemory:
    """Estimate the peak memory of a training. A test holds the estimate between 0.9 and 2 times the measured peak.

    Args:
        longest: tokens of the longest example.
        cuda: whether the device is CUDA, on which "auto" computes in 16 bits. Elsewhere it can be 32.
    """
    dtype = training.dtype if training.dtype != "auto" else "bfloat16" if cuda else "float32"
    width = _WIDTHS[dtype]
    computed = max(2.0, width)  # quantized weights are restored to 16 bits
    longest = min(longest, training.max_length or default_max_length(shape.context))
    tokens = training.batch_size * longest
    if training.batch_tokens is not None:
        tokens = max(longest, min(tokens, training.batch_tokens))
    trained = target_modules.count_adapter_parameters(lora, shape.layout)
    # Parameters, gradients, both moments, the best parameters so far, and the copy for a checkpoint.
    optimizer = 4 * trained * 8
    # A layer keeps for its backward pass: two inputs and their norms, queries, keys, values, attention weights and
    # output, and the inner states of the MLP. One layer at a time has gradients too, and a softmax in 32 bits.
    rows = tokens * (8 * shape.hidden + 4 * shape.inner) * computed
    scores = tokens * longest * shape.heads
    layer = rows + scores * computed
    passing = 2 * rows + scores * 12
    if training.gradient_checkpointing:
        activations = tokens * shape.hidden * computed * shape.layers + layer + passing
    else:
        activations = layer * shape.layers + passing
    logits = LOGIT_ROWS * shape.vocabulary * (2 * computed + 8)
    weights = shape.parameters * width
    if not cuda and training.packing:
        # One copy of the weights for forward products, one for backward products.
        prepared = 2 * sum(out * into for out, into in shape.layout.inner_linear.values()) * width
        weights += prepared if prepared <= PREPACKED_BYTES else 0
    if not cuda:
        head = 2 * shape.vocabulary * shape.hidden * width
        weights += head if head <= PREPACKED_BYTES else 0
    return TrainingMemory(
        process=_PROCESS_BYTES,
        weights=int(weights),
        optimizer=int(optimizer),
        activations=int(activations),
        logits=int(logits),
    )
