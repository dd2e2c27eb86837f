"""Sweeps: one training for each combination of settings, and how the held-out losses compare."""

from __future__ import annotations

from typing import Literal

from finch_hub.specs.jobs import JobState
from finch_hub.specs.reading import ReadingOptions
from finch_hub.specs.value import JsonObject, Value


class SweepPoint(Value):
    """One combination of settings, and its training.

    Attributes:
        number: place in the order of submission, from 1.
        settings: values of the settings that the sweep varies.
        reason: why the job failed.
        adapter: reference of the version that it made.
        loss: held-out loss in nats per token.
        difference: mean over the held-out examples of this point's loss minus the best point's, in nats per token.
        low: lower end of the difference's interval. All intervals of a sweep hold at once in 95 % of
            sweeps, for all pairs of its points.
        high: upper end of it.
        parameters: trained parameters.
        seconds: time of the training steps.
    """

    number: int
    settings: JsonObject
    job: str
    state: JobState
    reason: str | None = None
    adapter: str | None = None
    loss: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    parameters: int | None = None
    seconds: float | None = None

    @property
    def is_close(self) -> bool:
        """Whether the held-out examples do not tell the point from the best one."""
        return self.low is not None and self.low <= 0.0


class SweepReport(Value):
    """Points of a sweep, the lowest held-out loss first.

    Attributes:
        id: id of the sweep, which equal requests share.
        adapter: name of the adapter of which each point is a version.
        examples: number of held-out examples of each point.
        best: number of the point with the lowest held-out loss; None until one has ended.
        smallest: number of the point with the fewest parameters among the best one and those close to it.
        advice: what the differences mean, and what to try next.
    """

    id: str
    adapter: str
    points: tuple[SweepPoint, ...]
    examples: int = 0
    best: int | None = None
    smallest: int | None = None
    advice: tuple[str, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether all jobs have ended."""
        return all(point.state in ("succeeded", "failed", "cancelled") for point in self.points)


class SweepOptions(ReadingOptions, total=False):
    """Options of `Hub.sweep`: those of `Hub.train`, each setting with one value or a list of values to try."""

    rank: int | Literal["auto"] | list[int | Literal["auto"]]
    rank_tolerance: float | list[float]
    rank_budget: int | list[int | None] | None
    alpha: float | list[float]
    dropout: float | list[float]
    target_modules: tuple[str, ...] | str | list[tuple[str, ...] | str]
    exclude_modules: tuple[str, ...] | list[tuple[str, ...]]
    layers_to_transform: tuple[int, ...] | list[tuple[int, ...] | None] | None
    rank_pattern: dict[str, int] | list[dict[str, int]]
    alpha_pattern: dict[str, float] | list[dict[str, float]]
    use_rslora: bool | list[bool]
    use_dora: bool | list[bool]
    init: Literal["shared", "random", "eva", "start"] | list[Literal["shared", "random", "eva", "start"]]
    epochs: int | list[int]
    max_steps: int | list[int | None] | None
    learning_rate: float | list[float]
    loraplus_ratio: float | list[float]
    batch_size: int | list[int]
    gradient_accumulation: int | list[int]
    batch_tokens: int | list[int | None] | None
    max_length: int | list[int | None] | None
    schedule: Literal["constant", "linear", "cosine"] | list[Literal["constant", "linear", "cosine"]]
    warmup_ratio: float | list[float]
    warmup_steps: int | list[int | None] | None
    weight_decay: float | list[float]
    max_grad_norm: float | list[float]
    seed: int | list[int]
    evaluate_every: int | float | list[int | float | None] | None
    patience: int | list[int | None] | None
    min_improvement: float | list[float]
    checkpoint_every: int | None
    keep_checkpoints: int
    dtype: (
        Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]
        | list[Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]]
    )
    gradient_checkpointing: bool
    packing: bool | list[bool]
    share_prefix: bool | list[bool]
    samples: int | None
    threads: int | None
