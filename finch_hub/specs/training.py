"""How an adapter is trained."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

import pydantic

from finch_hub.specs.value import Value


class TrainingConfig(Value):
    """Everything about a training but the data, the base and the adapter's shape.

    Attributes:
        epochs: passes over the data.
        max_steps: optimiser steps after which it ends, whatever the epochs.
        learning_rate: peak of the schedule; LoRA takes about 10x that of full fine-tuning.
        loraplus_ratio: B's learning rate over A's (LoRA+, arXiv 2402.12354); 1 is plain LoRA.
        batch_size: examples in one micro-batch.
        gradient_accumulation: micro-batches in one optimiser step; their gradients are normalised over all label
            tokens of the step.
        batch_tokens: upper bound of padded tokens in one micro-batch; larger ones are split, which changes no result.
        max_length: tokens of an example; longer ones are truncated from the left of the prompt, and reported. None
            means the base's context, 2,048 at most.
        schedule: shape of the learning rate after warm-up.
        warmup_ratio: share of all steps over which it rises; the first step learns already.
        warmup_steps: the same in steps; takes precedence.
        weight_decay: AdamW's decoupled decay.
        max_grad_norm: gradients are clipped to this global norm; 0 turns it off.
        seed: fixes order, dropout and random initialisation.
        validation: share of the data held out where no validation file is given; 0 holds out nothing.
        evaluate_every: held-out loss every so many steps, or after each such share of an epoch if it is below 1; None
            means once an epoch.
        patience: evaluations without improvement after which it stops; None never stops early.
        min_improvement: what counts as improvement of the held-out loss, in nats per token.
        checkpoint_every: steps between checkpoints; None means every 30 seconds or so, at step boundaries.
        keep_checkpoints: how many are kept besides the best.
        dtype: of the base's weights; the adapter is always float32. "auto" takes bfloat16 where the device
            computes in it at speed; "int8" and "nf4" quantise the base with bitsandbytes, on CUDA.
        gradient_checkpointing: recompute activations instead of keeping them.
        packing: lay the examples of a batch end to end instead of padding them, where the engine has its own decoder
            for the base (Llama, Mistral, Qwen2, Qwen3 on a CPU); each still attends to itself only.
        share_prefix: compute the prefix that all examples of a packed batch begin with once; no result changes by it.
        threads: CPU threads; None means one per physical core that the process may use. Results depend on it.

    """

    epochs: pydantic.PositiveInt = 3
    max_steps: pydantic.PositiveInt | None = None
    learning_rate: float = pydantic.Field(default=2e-4, gt=0, le=1)
    loraplus_ratio: float = pydantic.Field(default=1.0, ge=1)
    batch_size: pydantic.PositiveInt = 8
    gradient_accumulation: pydantic.PositiveInt = 1
    batch_tokens: pydantic.PositiveInt | None = None
    max_length: int | None = pydantic.Field(default=None, ge=8)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = pydantic.Field(default=0.05, ge=0, lt=1)
    warmup_steps: pydantic.NonNegativeInt | None = None
    weight_decay: float = pydantic.Field(default=0.0, ge=0)
    max_grad_norm: float = pydantic.Field(default=1.0, ge=0)
    seed: pydantic.NonNegativeInt = 0
    validation: float = pydantic.Field(default=0.1, ge=0, lt=1)
    evaluate_every: pydantic.PositiveInt | Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    patience: pydantic.PositiveInt | None = None
    min_improvement: float = pydantic.Field(default=0.0, ge=0)
    checkpoint_every: pydantic.PositiveInt | None = None
    keep_checkpoints: pydantic.PositiveInt = 2
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"] = "auto"
    gradient_checkpointing: bool = False
    packing: bool = True
    share_prefix: bool = True
    threads: pydantic.PositiveInt | None = None


class TrainingOptions(TypedDict, total=False):
    """Fields of `TrainingConfig` as keyword arguments, without `validation`, which `Hub.train` takes in more forms."""

    epochs: int
    max_steps: int | None
    learning_rate: float
    loraplus_ratio: float
    batch_size: int
    gradient_accumulation: int
    batch_tokens: int | None
    max_length: int | None
    schedule: Literal["constant", "linear", "cosine"]
    warmup_ratio: float
    warmup_steps: int | None
    weight_decay: float
    max_grad_norm: float
    seed: int
    evaluate_every: int | float | None
    patience: int | None
    min_improvement: float
    checkpoint_every: int | None
    keep_checkpoints: int
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]
    gradient_checkpointing: bool
    packing: bool
    share_prefix: bool
    threads: int | None
