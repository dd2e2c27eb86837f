"""Reports of jobs, stored as JSON and drawn by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic

from finch_hub.specs.value import JsonObject, Value

HIGH_FORGETTING = 0.5
"""Nats per token from which a job warns of forgetting; `docs/decisions` has the measurements behind it."""


class TokenMetrics(Value):
    """Quality over the label tokens of a data set.

    Attributes:
        loss: mean cross-entropy in nats per label token.
        accuracy: share of label tokens whose logit is the largest.
        tokens: number of label tokens.
        example_losses: mean loss of each example, in the order of the data; the source of standard errors.
    """

    loss: float
    accuracy: float
    tokens: int
    examples: int
    example_losses: tuple[float, ...] = ()

    @property
    def perplexity(self) -> float:
        """Exponential of the loss, infinite if that overflows."""
        return float("inf") if self.loss > 700 else 2.718281828459045**self.loss


class ReadingReport(Value):
    """How the rows of a data set became examples.

    Attributes:
        rows: number of rows in the data.
        left_out: rows that cannot be used.
        without_weight: rows that were left out because their weight is 0.
        problems: why rows cannot be used, at most 20.
        unused: columns and fields of turns that have no meaning here, with the number of rows that have them.
        ignored: columns and fields that were left out on purpose, with the number of rows that have them.
        recognized: what was recognized, such as the encoding of a file.
        formats: numbers of rows that were read in each format; a format of a third-party plugin names it.
    """

    rows: int
    left_out: int = 0
    without_weight: int = 0
    problems: tuple[str, ...] = ()
    unused: dict[str, int] = pydantic.Field(default_factory=dict)
    ignored: dict[str, int] = pydantic.Field(default_factory=dict)
    recognized: tuple[str, ...] = ()
    formats: dict[str, int] = pydantic.Field(default_factory=dict)


class DataReport(Value):
    """Statistics of a tokenized data set, before the first step.

    Lengths are in tokens. `steps` and `seconds` are the estimate for the requested training on this device.

    Attributes:
        truncated: training examples that were cut to the maximum length.
        left_out: examples that could not be tokenized, such as those whose prompt leaves no room for an answer.
        problems: why they could not, at most 20.
        changes: what the chat template drops or changes, with the number of examples.
        duplicates: training examples that repeat an earlier one.
        overlap: validation examples that are also in the training data.
        shared_prompts: validation examples whose prompt is also in the training data.
        near_duplicates: validation examples that differ from a training example in few words.
        reading: how the rows were read; None if they were given as examples.
    """

    examples: int
    validation_examples: int = 0
    tokens: int
    label_tokens: int
    length_mean: float
    length_max: int
    length_p95: int
    truncated: int = 0
    left_out: int = 0
    problems: tuple[str, ...] = ()
    changes: dict[str, int] = pydantic.Field(default_factory=dict)
    duplicates: int = 0
    overlap: int = 0
    shared_prompts: int = 0
    near_duplicates: int = 0
    reading: ReadingReport | None = None
    shared_prefix_tokens: int = 0
    steps: int = 0
    seconds: float | None = None

    @property
    def masked_share(self) -> float:
        """Share of the tokens that are context and carry no loss."""
        return 1 - self.label_tokens / self.tokens


class Forgetting(Value):
    """How far a model moved from its base on general prompts, which its data has nothing to do with.

    The figures are the mean of ``KL(p_base || p_model)`` over the tokens of fixed answers, in nats per token.

    Attributes:
        before: figure before the job: 0 for a new adapter, the largest of the parents for a composition.
        after: figure of the adapter that the job made.
        tokens: number of tokens that were compared.
        prompts: number of the set of prompts; figures of different sets cannot be compared.
    """

    before: float
    after: float
    tokens: int
    prompts: int

    @property
    def metrics(self) -> dict[str, float]:
        """Figures among the metrics of a version."""
        return {"forgetting_before": self.before, "forgetting_after": self.after}

    @property
    def is_high(self) -> bool:
        """Whether the model may have lost abilities that its data does not show."""
        return self.after > HIGH_FORGETTING and self.after > self.before

    @property
    def warning(self) -> str:
        """What to tell users, empty if there is nothing to say."""
        if not self.is_high:
            return ""
        return (
            f"on general prompts the model moved by {self.after:.3g} nats per token from its base, more than "
            f"{HIGH_FORGETTING:g}: it may have lost other abilities; train less, with a lower learning rate, or mix "
            "general examples in"
        )


class TrainingReport(Value):
    """Report of a training: held-out quality before and after, and the environment.

    Attributes:
        after: best held-out metrics. They chose the adapter, so on new rows it is a little worse.
        best_step: step of this evaluation.
        evaluations: number of evaluations among which it is the best.
    """

    steps: int
    epochs: float
    tokens: int
    seconds: float
    train_loss: float
    before: TokenMetrics | None = None
    after: TokenMetrics | None = None
    best_step: int | None = None
    evaluations: int = 0
    stopped_early: bool = False
    trainable_parameters: int
    total_parameters: int
    data: DataReport
    forgetting: Forgetting | None = None
    environment: JsonObject = pydantic.Field(default_factory=dict)
    rank: JsonObject | None = None


class Disagreement(Value):
    """How much two updates of the same weights disagree.

    Attributes:
        output_overlap: ``‖Q_iᵀ Q_j‖²_F / min(r_i, r_j)`` of the column spaces of B, 0 to 1.
        input_overlap: the same for the row spaces of A.
        cosine: cosine of the two updates as vectors, -1 to 1.
        sign_conflict: share of the energy in core entries whose signs differ, 0 to 1.
        norm_ratio: Frobenius norm of the smaller update over the larger's, 0 to 1.
        interference: ``‖ΔW_j X_i‖ / ‖ΔW_i X_i‖`` on inputs of task i, the worse of both directions; None without
            probes.
    """

    output_overlap: float
    input_overlap: float
    cosine: float
    sign_conflict: float
    norm_ratio: float
    interference: float | None = None

    @property
    def severity(self) -> float:
        """How serious the conflict is: its interference, or without probes the share of opposite signs."""
        return self.interference if self.interference is not None else self.sign_conflict


class PairConflict(Disagreement):
    """Disagreement of two parents in a module, or in all modules if `module` is empty."""

    module: str
    first: str
    second: str


class HiddenShift(Value):
    """Distance of the final hidden states on a parent's probes when another parent is active too.

    ``‖h(i + j) - h(i)‖ / ‖h(i) - h(base)‖``, on inputs of `first`.
    """

    first: str
    second: str
    shift: float


class Forecast(Value):
    """Predicted retention of each parent, from outputs on its inputs and the retention of plain linear.

    It ranks most compositions as measured retention does (`benchmarks/retention.py --forecast`), but its value may
    differ by a tenth or more.

    Attributes:
        strategy: name and parameters of the strategy, after the resolver.
        scale: scale with the highest predicted retention of the worst parent.
        kept: predicted retention of each parent, in the report's order; None for a parent without rows.
    """

    strategy: str
    scale: float
    kept: tuple[float | None, ...]


class RowDivision(Value):
    """Numbers of a parent's validation rows that choose a composition, and that report it.

    Attributes:
        selection: rows on which a search chooses the strategy, the scale and the weights.
        report: rows on which retention is reported.
        is_divided: whether no row is in both parts. Otherwise both parts are all rows.
        left_out: rows that cannot be measured, for example since their prompt is too long.
    """

    parent: str
    selection: int
    report: int
    is_divided: bool
    left_out: int = 0


class ConflictReport(Value):
    """Conflicts between parents, found before their composition.

    Attributes:
        rows: division of the validation rows of each parent that has any; empty if nothing is measured.
    """

    parents: tuple[str, ...]
    rows: tuple[RowDivision, ...] = ()
    structural: tuple[str, ...] = ()
    modules: tuple[PairConflict, ...] = ()
    pairs: tuple[PairConflict, ...] = ()
    hidden_shifts: tuple[HiddenShift, ...] = ()
    forecasts: tuple[Forecast, ...] = ()
    shared_direction: float = pydantic.Field(default=0.0, description="Pico's largest c over all modules")
    advice: str = ""
    reasons: tuple[str, ...] = ()


class Retention(Value):
    """Share of a parent's gain that a composition keeps, on the parent's validation set.

    ``retention = (base - composed) / (base - parent)``. None if the parent's gain is below two standard errors (then
    `composed` must not exceed `base`), or if it has no validation data.
    """

    parent: str
    status: Literal["measured", "undefined", "unmeasured"]
    base: float | None = None
    own: float | None = None
    composed: float | None = None
    linear: float | None = None
    retention: float | None = None
    examples: int = 0


class CompositionMethod(Value):
    """A way to compose parents: the strategy that follows the resolver, and the weights of the parents.

    Attributes:
        scale: factor of modules that several parents change, besides the weights.
        weights: weights there. A module that only one parent changes has its given weight.
    """

    strategy: str
    parameters: JsonObject = pydantic.Field(default_factory=dict)
    resolver: str = "keep"
    resolver_parameters: JsonObject = pydantic.Field(default_factory=dict)
    scale: float
    weights: tuple[float, ...] = ()


class Candidate(CompositionMethod):
    """A measured candidate of a composition's search.

    Attributes:
        losses: held-out loss on each parent's search rows; None for a parent without rows.
        worst: least retention of the parents that gained; None if none did.
        mean: average retention of the parents that gained.
    """

    losses: tuple[float | None, ...]
    worst: float | None
    mean: float | None


class CompositionReport(CompositionMethod):
    """Report of a composition.

    Attributes:
        rank: largest rank of the result's modules.
        retention: retention of each parent, measured on `rows`.
        rows: "report" for rows that the search did not use, "selection" if there were too few to divide, or "none".
        evaluations: evaluations of the search, without the final measurement.
        won_by: worst retention minus that of the best plain linear, on the same rows; None if not measured.
        forgetting: distance of the result from the base on general prompts; None without a base.
        below_retention: parents whose retention is below the requested minimum.
    """

    rank: int
    conflicts: ConflictReport
    retention: tuple[Retention, ...] = ()
    rows: Literal["report", "selection", "none"] = "none"
    candidates: tuple[Candidate, ...] = ()
    evaluations: int = 0
    won_by: float | None = None
    forgetting: Forgetting | None = None
    seconds: float = 0.0
    below_retention: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def mean_retention(self) -> float | None:
        """Average retention of the measured parents, None without any."""
        kept = [r.retention for r in self.retention if r.retention is not None]
        return sum(kept) / len(kept) if kept else None

    @property
    def worst_retention(self) -> float | None:
        """Least retention of the measured parents, None without any."""
        return min((r.retention for r in self.retention if r.retention is not None), default=None)


class MergeReport(Value):
    """Report of a merge, with the difference of its logits from the adapter's on probes."""

    out: str
    modules: int
    bytes_written: int
    seconds: float
    max_logit_difference: float | None = None
    argmax_agreement: float | None = None


class ExportReport(Value):
    """Report of an export. Formats add their own fields."""

    model_config = pydantic.ConfigDict(extra="allow")

    format: str
    out: str


class QuantizationReport(Value):
    """Report of a quantization: size, error of the update and held-out loss."""

    scheme: str
    group: int | None
    bytes_before: int
    bytes_after: int
    relative_error: float
    before: TokenMetrics | None = None
    after: TokenMetrics | None = None
    candidates: tuple[JsonObject, ...] = ()


class EvaluationReport(Value):
    """Metrics of an evaluator for the base (named "base") and each adapter.

    Attributes:
        bases: names of the results without adapter. Adapters with another system prompt have a base of their own.
        unusable: adapters without figures, since the base with them computes values that are not finite, and the
            reason of each. The evaluation has quarantined them.
    """

    evaluator: str
    dataset: str
    results: dict[str, JsonObject]
    bases: tuple[str, ...] = ("base",)
    unusable: dict[str, str] = pydantic.Field(default={})


class Change(Value):
    """A named value that changed; None means that it is absent."""

    name: str
    original: Any = None
    reproduced: Any = None

    @classmethod
    def between(cls, original: Mapping[str, Any], reproduced: Mapping[str, Any]) -> tuple[Self, ...]:
        """Return the changed values, in alphabetical order of their names."""
        names = sorted(original.keys() | reproduced.keys())
        pairs = ((name, original.get(name), reproduced.get(name)) for name in names)
        return tuple(cls(name=name, original=then, reproduced=now) for name, then, now in pairs if then != now)


class TensorDifference(Value):
    """Difference between a tensor of an adapter and its reproduction.

    Attributes:
        relative: ``‖reproduced - original‖ / ‖original‖``, Frobenius; None if the shapes differ or a tensor is missing.
        largest: greatest absolute difference of two entries; None as above.
        what: description in words, if there are no numbers.
    """

    name: str
    relative: float | None = None
    largest: float | None = None
    what: str = ""


class ReproductionReport(Value):
    """Report of a reproduction: whether the bytes are the same, where they differ, and possible causes.

    Attributes:
        kind: kind of the job that made the version.
        identical: whether the cleaned configuration and the weights are the same bytes.
        identity: hash of the original.
        reproduced_identity: hash of the reproduction.
        config: fields of `adapter_config.json` that differ.
        tensors: tensors that differ, largest difference first.
        compared: number of tensors in either adapter.
        causes: changed influences on the bytes: versions, threads, instruction set and others.
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
