"""Composition of adapters into one adapter, with its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.engine.adapters import adapter_files
from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition import conflicts, core_space, peft_output, retention, truncation
from finch_hub.engine.composition.composer import Composer
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement, ValidationRows, count_rows, tokenize_validation
from finch_hub.engine.composition.parent_data import ParentData
from finch_hub.engine.composition.parents import ParentAdapter, ParentInput, check_parents, mix_seed, read_parents
from finch_hub.engine.composition.point import Point
from finch_hub.engine.composition.search import Search
from finch_hub.engine.composition.trial import Trial
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.specs.events import NewEvent, Report, silent
from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.reports import CompositionReport, ConflictReport, Retention

__all__ = ["Composed", "ParentInput", "compose"]


@dataclass(frozen=True, kw_only=True)
class Composed:
    """Finished composition.

    Attributes:
        factors: update of each module by module path.
        config: JSON fields of ``adapter_config.json`` that hold for all parents.
        report: settings and measurements.
        copy_of: PEFT folder of the parent, if the composition is that parent unchanged.
    """

    factors: Mapping[str, Factors]
    config: Mapping[str, Any]
    report: CompositionReport
    copy_of: Path | None = None

    def save(self, folder: Path) -> None:
        """Write a PEFT folder; an unchanged parent is copied byte for byte."""
        if self.copy_of is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(self.copy_of / name, folder / name)
        else:
            adapter_files.write_adapter(peft_output.to_weights(self.factors, self.config), folder)


def compose(
    parents: Sequence[ParentInput],
    spec: ComposeSpec,
    trials: Sequence[Trial],
    *,
    base: Base | None = None,
    report: Report = silent,
    between: Callable[[], None] = lambda: None,
) -> Composed:
    """Compose adapters of one base.

    With a base and validation rows of a parent, the trials are measured within `spec.evaluations`. The search tries
    several scales, unless `spec.scale` sets the scale. The report uses other rows than the search, if there are
    enough. With ``auto``, the point with the best worst parent wins, unless plain linear is better on the report rows.

    Without a base or rows, one trial is composed at its initial scale and every parent is `unmeasured`.

    Args:
        parents: one or more adapters.
        spec: strategy, rank, scale, seed, budget and minimum retention.
        trials: ways to compose. The first is plain linear, the baseline. ``auto`` chooses among all of them. A
            strategy that was requested by name is the last.
        base: loaded base without enabled adapters.
        report: receives the events: phases, measured points and conflicts.
        between: called between batches; an exception from it ends the composition.

    Raises:
        InvalidSpec: a weight, the rank or the strategy cannot work with these parents.
        Incompatible: the adapters do not fit together, or a resolver refuses.
        PluginError: a kernel raised.
    """
    started = time.monotonic()
    check_parents(parents)
    report(NewEvent.phase("read"))
    adapters = read_parents(parents)
    _check_rank(adapters, spec, trials[-1])
    rows = tokenize_validation(parents, base) if base is not None else []
    if len(parents) == 1:
        composed = _compose_single(parents[0], adapters[0], spec, base, rows, between)
    else:
        report(NewEvent.phase("core space"))
        # A parent of weight 0 is measured, but takes no part.
        active = [a if p.weight else replace(a, factors={}) for a, p in zip(adapters, parents, strict=True)]
        core = core_space.build(active)
        diagnosis = conflicts.diagnose(core)
        if rows:
            diagnosis = diagnosis.evolve(rows=count_rows(core.parents, rows))
        report(NewEvent(type="report", data={"name": "conflicts", "report": diagnosis.model_dump(mode="json")}))
        weights = tuple(parent.weight for parent in parents)
        task = _Task(
            spec=spec,
            trials=trials,
            weights=weights,
            composer=Composer(core=core, weights=weights, rank=spec.rank, seed=mix_seed(spec.seed, adapters)),
            conflicts=diagnosis,
            config=peft_output.common_config(adapters),
            max_rank=sum(adapter.rank for adapter in adapters),
        )
        if base is None:
            composed = _compose_unmeasured(task)
        else:
            with Measurement(base, adapters, rows, between=between) as measurement:
                composed = _compose_measured(task, measurement, report) if any(rows) else _compose_unmeasured(task)
                composed = _with_forgetting(composed, measurement, report)
    return replace(composed, report=composed.report.evolve(seconds=time.monotonic() - started))


def _with_forgetting(composed: Composed, measurement: Measurement, report: Report) -> Composed:
    """Return the composition with its distance from the base on general prompts in the report."""
    report(NewEvent.phase("measuring forgetting"))
    forgetting = measurement.measure_forgetting(composed.factors)
    advice = composed.report.advice + ((forgetting.warning,) if forgetting and forgetting.warning else ())
    return replace(composed, report=composed.report.evolve(forgetting=forgetting, advice=advice))


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Composition of several adapters: the request, and the values computed for it."""

    spec: ComposeSpec
    trials: Sequence[Trial]
    weights: tuple[float, ...]
    composer: Composer
    conflicts: ConflictReport
    config: Mapping[str, Any]
    max_rank: int

    @property
    def scale(self) -> float | None:
        """Requested scale, or 1 if parents have no module in common and no scale changes anything; None: search it."""
        return self.spec.scale if self.spec.scale is not None or self.composer.has_common_modules else 1.0

    def finish(self, trial: Trial, scale: float, weights: tuple[float, ...], lines: tuple[Retention, ...]) -> Composed:
        """Compose with the chosen settings, and report them."""
        factors = self.composer.compose(trial, scale, weights)
        report = CompositionReport(
            strategy=trial.strategy,
            parameters=trial.parameters.model_dump(),
            resolver=trial.resolver,
            resolver_parameters=trial.resolver_parameters.model_dump(),
            scale=scale,
            weights=weights,
            rank=max(update.rank for update in factors.values()),
            conflicts=self.conflicts,
            retention=lines,
            below_retention=retention.find_below(lines, self.spec.min_retention),
        )
        return Composed(factors=factors, config=self.config, report=report)


def _check_rank(adapters: Sequence[ParentAdapter], spec: ComposeSpec, trial: Trial) -> None:
    """Refuse a rank above the sum of the parents' ranks, and any rank of an exact strategy."""
    total = sum(adapter.rank for adapter in adapters)
    problems: list[errors.Problem] = []
    if isinstance(spec.rank, int) and spec.rank > total:
        what = f"{spec.rank} exceeds {total}, the sum of the parents' ranks"
        problems.append(errors.Problem(where="rank", what=what, fix=f"choose a rank up to {total}"))
    if spec.rank is not None and trial.is_exact and len(adapters) > 1:
        what = f"the strategy {trial.strategy} is exact and cannot be truncated"
        problems.append(errors.Problem(where="rank", what=what, fix="omit the rank, or use linear"))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")


def _compose_single(
    parent: ParentInput,
    adapter: ParentAdapter,
    spec: ComposeSpec,
    base: Base | None,
    rows: Sequence[ValidationRows | None],
    between: Callable[[], None],
) -> Composed:
    """Compose a single adapter, which is only scaled and truncated if the request says so."""
    scale = parent.weight * (spec.scale or 1.0)
    factors: Mapping[str, Factors] = {path: update.scaled(scale) for path, update in adapter.factors.items()}
    if spec.rank is not None:
        core = core_space.build([adapter])
        factors = truncation.truncate(core, core.merge((scale,), lambda block, w: block.cores[0]), spec.rank)
    is_unchanged = scale == 1 and (spec.rank is None or {spec.rank} == {f.rank for f in adapter.factors.values()})
    line = Retention(parent=parent.name, status="unmeasured")
    if base is not None and any(rows):
        with Measurement(base, [adapter], rows, between=between) as measurement:
            (before,), (own,) = measurement.measure(None, on_report=True), measurement.measure_parents(on_report=True)
            composed = own if is_unchanged else measurement.measure(factors, on_report=True)[0]
        line = retention.make_line(parent.name, base=before, own=own, composed=composed)
    return Composed(
        factors=factors,
        config=peft_output.common_config([adapter]),
        copy_of=parent.folder if is_unchanged else None,
        report=CompositionReport(
            strategy="linear",
            scale=spec.scale or 1.0,
            weights=(parent.weight,),
            rank=max(update.rank for update in factors.values()),
            conflicts=ConflictReport(parents=(parent.name,)),
            retention=(line,),
            rows="report" if line.base is not None else "none",
            below_retention=retention.find_below([line], spec.min_retention),
            advice=_advise_single(parent.name, spec, scale, is_unchanged=is_unchanged),
        ),
    )


def _advise_single(name: str, spec: ComposeSpec, scale: float, *, is_unchanged: bool) -> tuple[str, ...]:
    """Return sentences that say what the composition of a single adapter did, and what had no effect."""
    what = f"{name} is copied unchanged (a weight, a scale or a rank changes it)"
    if not is_unchanged:
        what = f"the update is {scale:g} times that of {name}"
    unused = [
        part for part, usual in ((spec.strategy, ("auto", "linear")), (spec.resolver, ("keep",))) if part not in usual
    ]
    return (what, *(f"{part} has no effect on a single adapter" for part in unused))


def _compose_unmeasured(task: _Task) -> Composed:
    spec = task.spec
    if spec.strategy == "auto":
        # Nothing can be measured, so nothing can be chosen: plain linear, after the requested resolver.
        trial = next(t for t in task.trials if t.strategy == "linear" and t.resolver == spec.resolver)
    else:
        trial = task.trials[-1]
    if trial.needs_data:
        what = f"the strategy {trial.strategy} needs validation examples of the parents, but there are none"
        fix = "give the parents validation data and a base, or choose another strategy"
        raise errors.InvalidSpec(what, where="strategy", fix=fix, subject="composition")
    lines = tuple(Retention(parent=parent, status="unmeasured") for parent in task.conflicts.parents)
    composed = task.finish(trial, task.scale or trial.initial_scale, task.weights, lines)
    advice = ["nothing was measured: no parent has validation rows, or there is no base"]
    if composed.report.below_retention:
        advice.append("the minimum retention is not known to hold for any parent")
    if not task.scale:
        advice.append("the scale is an estimate from other adapters")
    return replace(composed, report=composed.report.evolve(advice=tuple(advice)))


def _compose_measured(task: _Task, measurement: Measurement, report: Report) -> Composed:
    report(NewEvent.phase("measure the parents"))
    base, own = measurement.measure(None), measurement.measure_parents()
    task.composer.parent_data = ParentData(measurement, base=base, own=own)
    report(NewEvent.phase("search"))
    search = Search(
        composer=task.composer,
        measurement=measurement,
        base=base,
        own=own,
        budget=task.spec.evaluations,
        log=lambda text: report(NewEvent(type="message", message=text)),
    )
    linear, best = _search_points(search, task)
    report(NewEvent.phase("measure the composition"))
    chosen, lines, won_by = _measure_final(task, measurement, linear, best)
    composed = task.finish(chosen.trial, chosen.scale, chosen.weights, lines)
    is_divided = all(rows.is_divided for rows in measurement.rows if rows is not None)
    advice = retention.advise(lines, composed.report.below_retention, is_divided=is_divided)
    advice += retention.advise_next(lines, task.spec, rank=composed.report.rank, max_rank=task.max_rank)
    if chosen != best:
        advice += (f"{best.trial.label} won the search, but plain linear is better on the report rows and was chosen",)
    evidence = composed.report.evolve(
        rows="report" if is_divided else "selection",
        candidates=tuple(point.to_candidate() for point in search.points),
        evaluations=len(search.points),
        won_by=won_by,
        advice=advice,
    )
    return replace(composed, report=evidence)


def _search_points(search: Search, task: _Task) -> tuple[Point, Point]:
    """Spend the budget; return the best plain linear point and the best point of the requested trials."""
    spec, weights, baseline = task.spec, task.weights, task.trials[0]
    requested = task.trials if spec.strategy == "auto" else task.trials[-1:]
    if task.scale is not None:
        requested = requested[: spec.evaluations if task.composer.has_common_modules else 1]
        linear = search.measure(baseline, task.scale, weights)
        search.linear_retention = linear.retention
        points = [search.measure(trial, task.scale, weights) for trial in requested]
        return linear, max(points, key=lambda p: p.sort_key)
    search.sweep([baseline], weights, budget=max(1, spec.evaluations // 4))
    search.linear_retention = search.find_best(baseline).retention
    if spec.strategy == "auto":
        search.sweep(requested, weights, budget=search.evaluations_left - search.evaluations_left // 4)
        if len(set(weights)) == 1:  # the user chose unequal weights on purpose
            search.balance_weights(search.find_best())
    else:
        search.sweep(requested, weights)
    labels = {trial.label for trial in requested}
    best = max((p for p in search.points if p.trial.label in labels), key=lambda p: p.sort_key)
    return search.find_best(baseline), best


def _measure_final(
    task: _Task, measurement: Measurement, linear: Point, best: Point
) -> tuple[Point, tuple[Retention, ...], float | None]:
    """Measure both points on the report rows; return the winner, its retention, and its lead over plain linear."""

    def measure(point: Point) -> retention.Metrics:
        return measurement.measure(task.composer.compose(point.trial, point.scale, point.weights), on_report=True)

    base, own = measurement.measure(None, on_report=True), measurement.measure_parents(on_report=True)
    linear_metrics = measure(linear)
    best_metrics = linear_metrics if best == linear else measure(best)
    worst, baseline = (retention.compute_worst(base, own, m) for m in (best_metrics, linear_metrics))
    won_by = None if worst is None or baseline is None else worst - baseline
    if won_by is not None and won_by < 0 and task.spec.strategy == "auto":
        best, best_metrics, won_by = linear, linear_metrics, 0.0
    lines = tuple(
        retention.make_line(parent, base=b, own=o, composed=c, linear=plain)
        for parent, b, o, c, plain in zip(task.conflicts.parents, base, own, best_metrics, linear_metrics, strict=True)
    )
    return best, lines, won_by
