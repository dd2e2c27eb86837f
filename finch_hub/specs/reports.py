"""What jobs find out: values that come back, are stored as JSON and drawn by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from finch_hub.specs.value import Value


class TokenMetrics(Value):
    """Quality over the label tokens of a data set.

    Attributes:
        loss: mean cross-entropy in nats per label token.
        accuracy: share of label tokens predicted right by the largest logit.
        tokens: label tokens counted.
        examples: examples counted.
        example_losses: mean loss of each example, in the data's order; what standard errors are computed from.

    """

    loss: float
    accuracy: float
    tokens: int
    examples: int
    example_losses: tuple[float, ...] = ()

    @property
    def perplexity(self) -> float:
        """Exponential of the loss, infinite where that overflows."""
        return float("inf") if self.loss > 700 else 2.718281828459045**self.loss


class DataReport(Value):
    """What tokenising a data set showed, before the first step.

    Lengths are in tokens; `steps` and `seconds` are the estimate for the training asked for, on this device.
    """

    examples: int
    validation_examples: int = 0
    tokens: int
    label_tokens: int
    length_mean: float
    length_max: int
    length_p95: int
    truncated: int = 0
    duplicates: int = 0
    overlap: int = 0
    shared_prefix_tokens: int = 0
    steps: int = 0
    seconds: float | None = None

    @property
    def masked_share(self) -> float:
        """Share of the tokens that are read and not learnt."""
        return 1 - self.label_tokens / self.tokens


class TrainingReport(Value):
    """The evidence of one training: held-out quality before and after, and what its bytes depend on."""

    steps: int
    epochs: float
    tokens: int
    seconds: float
    train_loss: float
    before: TokenMetrics | None = None
    after: TokenMetrics | None = None
    best_step: int | None = None
    stopped_early: bool = False
    trainable_parameters: int
    total_parameters: int
    data: DataReport
    environment: dict[str, Any] = pydantic.Field(default_factory=dict)
    rank: dict[str, Any] | None = None


class PairConflict(Value):
    """How two parents disagree in one module (or over all, where `module` is empty).

    Attributes:
        output_overlap: ``‖Q_iᵀ Q_j‖²_F / min(r_i, r_j)`` of the column spaces of B, 0 to 1.
        input_overlap: the same of the row spaces of A.
        cosine: of the two updates as vectors, -1 to 1.
        sign_conflict: share of energy at core entries whose signs differ, 0 to 1.
        norm_ratio: Frobenius norm of the smaller update over the larger's, 0 to 1.
        interference: ``‖ΔW_j X_i‖ / ‖ΔW_i X_i‖`` on inputs of task i, the worse of both directions; None where no
            probes were run.

    """

    module: str
    first: str
    second: str
    output_overlap: float
    input_overlap: float
    cosine: float
    sign_conflict: float
    norm_ratio: float
    interference: float | None = None


class HiddenShift(Value):
    """Distance of the final hidden states on one parent's probes when another parent acts as well.

    ``‖h(i + j) - h(i)‖ / ‖h(i) - h(base)‖``, on inputs of `first`.
    """

    first: str
    second: str
    shift: float


class Forecast(Value):
    """What a strategy would keep of each parent's gain, told from outputs on its own inputs and from what linear keeps.

    It ranks compositions as measured retention does, for most of them; `benchmarks/retention.py --forecast` says how
    well. Its value may be off by a tenth and more.

    Attributes:
        strategy: with its parameters, after the resolver with its own.
        scale: the one that serves the worst parent best.
        kept: of each parent, in the report's order; None for a parent without rows.

    """

    strategy: str
    scale: float
    kept: tuple[float | None, ...]


class ConflictReport(Value):
    """What composing would meet, found before composing anything."""

    parents: tuple[str, ...]
    structural: tuple[str, ...] = ()
    modules: tuple[PairConflict, ...] = ()
    pairs: tuple[PairConflict, ...] = ()
    hidden_shifts: tuple[HiddenShift, ...] = ()
    forecasts: tuple[Forecast, ...] = ()
    shared_direction: float = pydantic.Field(default=0.0, description="Pico's largest c over all modules")
    advice: str = ""
    reasons: tuple[str, ...] = ()


class Retention(Value):
    """How much of one parent's gain a composition keeps, on that parent's own validation set.

    ``retention = (base - composed) / (base - parent)``; None where the parent's own gain is under two standard errors
    (then `composed` must not exceed `base`) or it has no validation data.
    """

    parent: str
    status: Literal["measured", "undefined", "unmeasured"]
    base: float | None = None
    own: float | None = None
    composed: float | None = None
    linear: float | None = None
    retention: float | None = None
    examples: int = 0


class Candidate(Value):
    """One point of a composition's search: what was tried, and what it kept of each parent on the rows of the search.

    Attributes:
        strategy: with its parameters, after the resolver with its own.
        scale: factor of the whole update.
        weights: of the parents, before the scale.
        losses: held-out loss on each parent's rows, None for a parent without any.
        worst: least retention over the parents that gained; None where none did.
        mean: the average of them.

    """

    strategy: str
    parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    resolver: str = "keep"
    resolver_parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    scale: float
    weights: tuple[float, ...] = ()
    losses: tuple[float | None, ...]
    worst: float | None
    mean: float | None


class CompositionReport(Value):
    """The evidence of one composition.

    Attributes:
        strategy: what was applied in the end, with its parameters, after the resolver with its own.
        scale: factor of the whole update, beside the parents' weights.
        rank: largest rank over the modules of the result.
        conflicts: what was found before composing.
        retention: one line for each parent, measured on `rows`.
        rows: "report": on rows that the search never looked at; "selection": there were too few to divide; "none".
        candidates: every point of the search, in the order tried.
        evaluations: of the search; the final measurement is not among them.
        won_by: worst retention minus that of the best plain linear, on the same rows; None where not measured.
        below_retention: parents that keep less than was asked for.

    """

    strategy: str
    parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    resolver: str = "keep"
    resolver_parameters: dict[str, Any] = pydantic.Field(default_factory=dict)
    scale: float
    weights: tuple[float, ...] = ()
    rank: int
    conflicts: ConflictReport
    retention: tuple[Retention, ...] = ()
    rows: Literal["report", "selection", "none"] = "none"
    candidates: tuple[Candidate, ...] = ()
    evaluations: int = 0
    won_by: float | None = None
    seconds: float = 0.0
    below_retention: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def mean_retention(self) -> float | None:
        """Average over the parents that were measured, None without one."""
        kept = [r.retention for r in self.retention if r.retention is not None]
        return sum(kept) / len(kept) if kept else None

    @property
    def worst_retention(self) -> float | None:
        """Least over the parents that were measured, None without one."""
        return min((r.retention for r in self.retention if r.retention is not None), default=None)


class MergeReport(Value):
    """What a merge wrote, and how its logits compare with the adapter's on probes."""

    out: str
    modules: int
    bytes_written: int
    seconds: float
    max_logit_difference: float | None = None
    argmax_agreement: float | None = None


class ExportReport(Value):
    """What an export wrote; formats add fields of their own."""

    model_config = pydantic.ConfigDict(extra="allow")

    format: str
    out: str


class QuantizationReport(Value):
    """Size, error of the delta and held-out loss of one quantised adapter."""

    scheme: str
    group: int | None
    bytes_before: int
    bytes_after: int
    relative_error: float
    before: TokenMetrics | None = None
    after: TokenMetrics | None = None
    candidates: tuple[dict[str, Any], ...] = ()


class EvaluationReport(Value):
    """One evaluator's metrics for the base (name "base") and each adapter."""

    evaluator: str
    dataset: str
    results: dict[str, dict[str, Any]]


class Change(Value):
    """A named value that is another one now; None where there is none."""

    name: str
    original: Any = None
    reproduced: Any = None

    @classmethod
    def between(cls, original: Mapping[str, Any], reproduced: Mapping[str, Any]) -> tuple[Self, ...]:
        """Return the names whose values are not the same in both, in alphabetical order."""
        names = sorted(original.keys() | reproduced.keys())
        pairs = ((name, original.get(name), reproduced.get(name)) for name in names)
        return tuple(cls(name=name, original=then, reproduced=now) for name, then, now in pairs if then != now)


class TensorDifference(Value):
    """How one tensor of an adapter differs from its reproduction.

    Attributes:
        name: as in the safetensors file.
        relative: ``‖reproduced - original‖ / ‖original‖``, Frobenius; None where only one of the two has the tensor, or
            the shapes differ.
        largest: greatest absolute difference of two entries, likewise.
        what: in words, where there are no figures.

    """

    name: str
    relative: float | None = None
    largest: float | None = None
    what: str = ""


class ReproductionReport(Value):
    """Whether a version's bytes came out again, and if not, where they differ and what may be why.

    Attributes:
        adapter: the version, as `name/3`.
        kind: of the job that made it.
        identical: the cleaned configuration and the weights are the same bytes.
        identity: hash of the original's.
        reproduced_identity: hash of what came out now.
        config: fields of `adapter_config.json` that differ.
        tensors: those that differ, the most different first.
        compared: number of tensors in either.
        causes: what bytes depend on and is not as it was: versions, threads, instruction set, …
        seconds: that the work took.

    """

    adapter: str
    kind: str
    identical: bool
    identity: str
    reproduced_identity: str
    config: tuple[Change, ...] = ()
    tensors: tuple[TensorDifference, ...] = ()
    compared: int
    causes: tuple[Change, ...] = ()
    seconds: float
