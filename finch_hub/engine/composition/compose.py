"""Compose adapters into one: resolver, strategy, scale; measured against the parents wherever there is data."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.engine.adapters import weights as adapter_files
from finch_hub.engine.composition import compatibility, conflicts, core_space, factors, retention, truncation
from finch_hub.engine.composition.compatibility import ParentInput
from finch_hub.engine.composition.factors import Adapter, Factors
from finch_hub.engine.composition.measurement import Bench, Rows, rows_of
from finch_hub.engine.composition.parent_data import Objective
from finch_hub.engine.composition.search import Composer, Point, Search, Trial
from finch_hub.specs.events import NewEvent, Report, silent
from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.reports import CompositionReport, ConflictReport, Retention

if TYPE_CHECKING:
    from finch_hub.engine.bases.loading import Base

__all__ = ["Composed", "ParentInput", "compose"]


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A finished composition: its factors (or the one adapter that it is), and the evidence."""

    factors: Mapping[str, Factors]
    config: Mapping[str, Any]
    report: CompositionReport
    copy_of: Path | None = None

    def save(self, folder: Path) -> None:
        """Write it as a PEFT folder; a composition of one adapter at weight 1 is its files, byte for byte."""
        if self.copy_of is not None:
            factors.copy(self.copy_of, folder)
        else:
            adapter_files.write(factors.to_weights(self.factors, self.config), folder)


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

    With a base and validation rows of at least one parent, the trials' scales are swept (unless `spec.scale` fixes it)
    within `spec.evaluations`, on rows that the report does not use where there are enough. With ``auto`` the point
    that keeps most of its worst parent wins, but never one that on the reported rows keeps less of it than the best
    plain linear point. Without base or rows nothing can be chosen: one trial is taken at the scale it begins with, and
    every parent is `unmeasured`.

    Args:
        parents: one or more.
        spec: strategy (whether it is ``auto``), rank, scale, seed, budget and minimum retention are taken from it.
        trials: ways to compose. The first one is the baseline, plain linear; ``auto`` chooses among all of them, a
            strategy that was asked for by name is the last.
        base: in memory, without adapters that are enabled.
        report: told of phases, candidates and the conflicts as events.
        between: called between batches; what it raises ends the composition.

    Raises:
        InvalidSpec: weights that are not finite, a rank above the sum of ranks, a rank for an exact strategy, a
            strategy that needs data where there is none.
        Incompatible: adapters of different bases, or with parts that do not add up; a resolver that refuses.
        PluginError: a kernel raised.

    """
    started = time.monotonic()
    compatibility.check_parents(parents)
    report(NewEvent.phase("read"))
    adapters = compatibility.read(parents)
    compatibility.check_rank(adapters, spec, trials[-1])
    rows = rows_of(parents, base) if base is not None else []
    if len(parents) == 1:
        made, copy_of, found = _alone(parents[0], adapters[0], spec, base, rows, between)
    else:
        report(NewEvent.phase("core space"))
        core = core_space.build(adapters)
        diagnosis = conflicts.diagnose(core)
        report(NewEvent(type="report", data={"name": "conflicts", "report": diagnosis.model_dump(mode="json")}))
        composer = Composer(core, rank=spec.rank, seed=mixed_seed(spec.seed, adapters))
        copy_of = None
        weights = tuple(parent.weight for parent in parents)
        if base is None or not any(rows):
            made, found = _unmeasured(spec, trials, composer, weights, diagnosis)
        else:
            with Bench(base, adapters, rows, between=between) as bench:
                made, found = _measured(spec, trials, composer, weights, diagnosis, bench, report)
    return Composed(
        factors=made,
        config=factors.common_config(adapters),
        report=found.evolve(seconds=time.monotonic() - started),
        copy_of=copy_of,
    )


def mixed_seed(seed: int, adapters: Sequence[Adapter]) -> int:
    """Mix a seed with the parents' content, whatever their order."""
    text = ":".join([str(seed), *sorted(adapter.digest for adapter in adapters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _measured(
    spec: ComposeSpec,
    trials: Sequence[Trial],
    composer: Composer,
    weights: tuple[float, ...],
    diagnosis: ConflictReport,
    bench: Bench,
    report: Report,
) -> tuple[dict[str, Factors], CompositionReport]:
    report(NewEvent.phase("measure the parents"))
    base, own = bench.measure(None), bench.measure_parents()
    composer.objective = Objective(bench, base=base, own=own)
    report(NewEvent.phase("search"))
    search = Search(
        composer,
        bench,
        base=base,
        own=own,
        budget=spec.evaluations,
        tell=lambda text: report(NewEvent(type="message", message=text)),
    )
    linear, best = _search(search, trials, weights, spec)
    report(NewEvent.phase("measure the composition"))
    chosen, lines, won_by = _final(
        diagnosis.parents, bench, composer, linear, best, may_fall_back=spec.strategy == "auto"
    )
    made = composer(chosen.trial, chosen.scale, chosen.weights)
    below = below_retention(lines, spec.min_retention)
    divided = all(rows.divided for rows in bench.rows if rows is not None)
    return made, CompositionReport(
        **_described(chosen.trial, chosen.scale, chosen.weights, made),
        conflicts=diagnosis,
        retention=lines,
        rows="report" if divided else "selection",
        candidates=tuple(point.candidate() for point in search.points),
        evaluations=len(search.points),
        won_by=won_by,
        below_retention=below,
        advice=_advice(lines, below, divided=divided),
    )


def _search(
    search: Search, trials: Sequence[Trial], weights: tuple[float, ...], spec: ComposeSpec
) -> tuple[Point, Point]:
    """Spend the budget; return the best plain linear point, and the best of what was asked for."""
    baseline = trials[0]
    asked = trials if spec.strategy == "auto" else trials[-1:]
    if spec.scale is not None:
        asked = asked[: spec.evaluations]
        linear = search.at(baseline, spec.scale, weights)
        search.floor = linear.kept
        return linear, max((search.at(trial, spec.scale, weights) for trial in asked), key=lambda p: p.rank_key)
    search.sweep([baseline], weights, budget=max(1, spec.evaluations // 4))
    search.floor = search.best(baseline).kept
    if spec.strategy == "auto":
        search.sweep(asked, weights, budget=search.left - search.left // 4)
        if len(set(weights)) == 1:  # other weights are somebody's will
            search.balance(search.best())
    else:
        search.sweep(asked, weights)
    labels = {trial.label for trial in asked}
    best = max((p for p in search.points if p.trial.label in labels), key=lambda p: p.rank_key)
    return search.best(baseline), best


def _final(
    parents: Sequence[str], bench: Bench, composer: Composer, linear: Point, best: Point, *, may_fall_back: bool
) -> tuple[Point, tuple[Retention, ...], float | None]:
    """Measure on the rows for the report; fall back to plain linear where the winner is worse there."""

    def measured(point: Point) -> retention.Metrics:
        return bench.measure(composer(point.trial, point.scale, point.weights), on_report=True)

    base, own = bench.measure(None, on_report=True), bench.measure_parents(on_report=True)
    of_linear = measured(linear)
    of_best = of_linear if best == linear else measured(best)
    worst, baseline = retention.worst(base, own, of_best), retention.worst(base, own, of_linear)
    won_by = None if worst is None or baseline is None else worst - baseline
    if won_by is not None and won_by < 0 and may_fall_back:
        best, of_best, won_by = linear, of_linear, 0.0
    lines = tuple(
        retention.row(parent, base=b, own=o, composed=c, linear=plain)
        for parent, b, o, c, plain in zip(parents, base, own, of_best, of_linear, strict=True)
    )
    return best, lines, won_by


def _alone(
    parent: ParentInput,
    adapter: Adapter,
    spec: ComposeSpec,
    base: Base | None,
    rows: Sequence[Rows | None],
    between: Callable[[], None],
) -> tuple[Mapping[str, Factors], Path | None, CompositionReport]:
    """Compose a single adapter: itself, only scaled and truncated where that was asked for."""
    scale = parent.weight * (spec.scale or 1.0)
    made: Mapping[str, Factors] = {path: update.scaled(scale) for path, update in adapter.factors.items()}
    if spec.rank is not None:
        core = core_space.build([adapter])
        made = truncation.lift(core, core.merge((scale,), lambda block, w: block.cores[0]), spec.rank)
    unchanged = scale == 1 and (spec.rank is None or {spec.rank} == {f.rank for f in adapter.factors.values()})
    lines: tuple[Retention, ...] = (Retention(parent=parent.name, status="unmeasured"),)
    if base is not None and any(rows):
        with Bench(base, [adapter], rows, between=between) as bench:
            before, own = bench.measure(None, on_report=True)[0], bench.measure_parents(on_report=True)[0]
            composed = own if unchanged else bench.measure(made, on_report=True)[0]
        lines = (retention.row(parent.name, base=before, own=own, composed=composed),)
    return (
        made,
        parent.folder if unchanged else None,
        CompositionReport(
            strategy="linear",
            scale=spec.scale or 1.0,
            weights=(parent.weight,),
            rank=max(update.rank for update in made.values()),
            conflicts=ConflictReport(parents=(parent.name,)),
            retention=lines,
            rows="report" if lines[0].base is not None else "none",
            below_retention=below_retention(lines, spec.min_retention),
        ),
    )


def _unmeasured(
    spec: ComposeSpec,
    trials: Sequence[Trial],
    composer: Composer,
    weights: tuple[float, ...],
    diagnosis: ConflictReport,
) -> tuple[dict[str, Factors], CompositionReport]:
    trial = _blind(trials, spec.resolver) if spec.strategy == "auto" else trials[-1]
    if trial.needs_data:
        what = f"{trial.strategy} fits the parents' validation examples, and there are none"
        fix = "give the parents validation data and the base, or choose another strategy"
        raise errors.InvalidSpec(errors.Problem(where="strategy", what=what, fix=fix), subject="composition")
    scale = spec.scale or trial.scale
    made = composer(trial, scale, weights)
    guess = "" if spec.scale else "; the scale is a guess that held on other adapters"
    lines = tuple(Retention(parent=parent, status="unmeasured") for parent in diagnosis.parents)
    below = below_retention(lines, spec.min_retention)
    gate = ", so that none is known to keep what was asked for" if below else ""
    return made, CompositionReport(
        **_described(trial, scale, weights, made),
        conflicts=diagnosis,
        retention=lines,
        below_retention=below,
        advice=(f"nothing was measured, for no parent has validation rows or there is no base{gate}{guess}",),
    )


def _blind(trials: Sequence[Trial], resolver: str) -> Trial:
    """Return what `auto` takes where nothing can be measured: linear, after the resolver that was asked for."""
    return next(trial for trial in trials if trial.strategy == "linear" and trial.resolver == resolver)


def _described(trial: Trial, scale: float, weights: tuple[float, ...], made: Mapping[str, Factors]) -> dict[str, Any]:
    return {
        "strategy": trial.strategy,
        "parameters": trial.parameters.model_dump(),
        "resolver": trial.resolver,
        "resolver_parameters": trial.resolver_parameters.model_dump(),
        "scale": scale,
        "weights": weights,
        "rank": max(update.rank for update in made.values()),
    }


def below_retention(lines: Sequence[Retention], least: float | None) -> tuple[str, ...]:
    """Name the parents that keep less than asked for, got worse than the base without a gain, or were not measured."""
    if least is None:
        return ()
    return tuple(
        line.parent
        for line in lines
        if line.status == "unmeasured"
        or (line.retention is not None and line.retention < least)
        or (line.status == "undefined" and line.composed is not None and line.composed > (line.base or 0.0))
    )


def _advice(lines: Sequence[Retention], below: Sequence[str], *, divided: bool) -> tuple[str, ...]:
    found: list[str] = []
    for line in lines:
        if line.parent in below:
            kept = "got worse than the base" if line.retention is None else f"keeps {line.retention:.2f} of its gain"
            fix = "give it more weight, ask for a higher rank, or keep it apart and switch at run time"
            if line.status == "unmeasured":
                kept, fix = "was not measured, so the least retention is not known to hold", "give it validation rows"
            found.append(f"{line.parent} {kept}: {fix}")
        elif line.status == "undefined":
            found.append(f"{line.parent} itself gains less than two standard errors over the base on its rows")
    if not divided:
        found.append("a parent has too few validation rows to set some apart from the search: its figure flatters")
    return tuple(found)
