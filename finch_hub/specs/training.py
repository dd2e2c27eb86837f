"""Config of a training."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

import pydantic

from finch_hub.specs.value import MAX_INTEGER, Config, NonNegativeInt, PositiveInt


class TrainingConfig(Config):
    """Config of a training, without data, base and adapter configuration.

    Attributes:
        epochs: passes over the data.
        max_steps: maximum number of optimizer steps, whatever the epochs.
        learning_rate: peak of the schedule; LoRA needs about ten times that of full fine-tuning.
        loraplus_ratio: B's learning rate over A's (LoRA+, arXiv 2402.12354); 1 is plain LoRA.
        batch_size: examples in a micro-batch.
        gradient_accumulation: micro-batches in an optimizer step; gradients are normalized over all its label tokens.
        batch_tokens: maximum number of padded tokens in a micro-batch; larger ones are split. Without dropout, results
            differ only by rounding. Dropout then drops other inputs, as with another seed.
        max_length: maximum number of tokens of an example; longer ones lose the left end of the prompt, and are
            reported. None means the base's context, at most 2,048.
        schedule: shape of the learning rate after warm-up.
        warmup_ratio: share of all steps in which the learning rate rises, from above 0.
        warmup_steps: the same as a number of steps; replaces `warmup_ratio`.
        weight_decay: AdamW's decoupled decay.
        max_grad_norm: global norm to which gradients are clipped; 0 turns clipping off.
        seed: seed of order, dropout and random initialization.
        validation: share of the data that is held out if there is no validation file; 0 holds out nothing.
        evaluate_every: steps between evaluations of the held-out loss, or a share of an epoch below 1; None means once
            an epoch.
        patience: evaluations without improvement after which the training stops; None never stops early.
        min_improvement: decrease of the held-out loss that counts as improvement for patience, in nats per token. The
            best parameters are those of the lowest loss, whatever this is.
        strict: refuse data with rows that cannot be used, columns that are not used, or turns that the chat template
            changes.
        max_bad_rows: largest share of the rows that may be left out because they cannot be used, 0 to 1.
        checkpoint_every: steps between checkpoints; None means about 30 seconds.
        keep_checkpoints: number of checkpoints that are kept besides the best.
        dtype: type of the base's weights; the adapter is always float32. "auto" uses bfloat16 where the device is fast
            in it; "int8" and "nf4" quantize the base with bitsandbytes, on CUDA.
        gradient_checkpointing: recompute activations instead of keeping them.
        packing: concatenate the examples of a batch instead of padding them, if the engine has a decoder for the base
            (Llama, Mistral, Qwen2 and Qwen3 on a CPU). Each example still attends to itself only.
        share_prefix: compute the common prefix of a packed batch once. Without dropout, only rounding differs.
            With dropout, the examples of a batch also share what is dropped of their prefix.
        samples: prompts of the validation data that are answered before and after, to be kept with the version. None
            means two, from trainings of a minute or more, and for at most 2 % of their time.
        threads: CPU threads, on which results depend; None means one for each physical core that the process may use.
    """

    epochs: PositiveInt = 3
    max_steps: PositiveInt | None = None
    learning_rate: float = pydantic.Field(default=2e-4, gt=0, le=1)
    loraplus_ratio: float = pydantic.Field(default=1.0, ge=1)
    batch_size: PositiveInt = 8
    gradient_accumulation: PositiveInt = 1
    batch_tokens: PositiveInt | None = None
    max_length: int | None = pydantic.Field(default=None, ge=8, le=MAX_INTEGER)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = pydantic.Field(default=0.05, ge=0, lt=1)
    warmup_steps: NonNegativeInt | None = None
    weight_decay: float = pydantic.Field(default=0.0, ge=0)
    max_grad_norm: float = pydantic.Field(default=1.0, ge=0)
    seed: NonNegativeInt = 0
    validation: float = pydantic.Field(default=0.1, ge=0, lt=1)
    evaluate_every: PositiveInt | Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    patience: PositiveInt | None = None
    min_improvement: float = pydantic.Field(default=0.0, ge=0)
    strict: bool = False
    max_bad_rows: float = pydantic.Field(default=0.05, ge=0, le=1)
    checkpoint_every: PositiveInt | None = None
    keep_checkpoints: PositiveInt = 2
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"] = "auto"
    gradient_checkpointing: bool = False
    packing: bool = True
    share_prefix: bool = True
    samples: int | None = pydantic.Field(default=None, ge=0, le=16)
    threads: PositiveInt | None = None


class TrainingOptions(TypedDict, total=False):
    """Fields of `TrainingConfig` as keyword arguments.

    `Hub.train` takes `validation` in more forms, and `strict` and `max_bad_rows` with the options of reading.
    """

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
    samples: int | None
    threads: int | None
