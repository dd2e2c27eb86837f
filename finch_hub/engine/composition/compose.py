"""Compose adapters into one: resolver, strategy, scale; measured against the parents wherever there is data."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.engine import weights as adapter_files
from finch_hub.engine.composition import conflicts, core_space, factors, retention
from finch_hub.engine.composition.factors import Adapter, Factors
from finch_hub.engine.composition.retention import Bench, Rows
from finch_hub.engine.composition.search import Composer, Point, Search, Trial
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import ComposeSpec
from finch_hub.specs.reports import CompositionReport, ConflictReport, Retention, TokenMetrics

if TYPE_CHECKING:
    from finch_hub.engine.bases import Base

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class ParentInput:
    """One parent of a composition.

    Attributes:
        name: what reports call it.
        folder: its PEFT folder.
        weight: its share before the scale.
        validation: examples of its domain that it was not trained on; empty where there are none.
        system: system prompt it was trained with.
        base_fingerprint: of the base it was trained on, where that is known.

    """

    name: str
    folder: Path
    weight: float = 1.0
    validation: Sequence[Example] = ()
    system: str | None = None
    base_fingerprint: str | None = None


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
    report: Report = lambda event: None,
    between: Callable[[], None] = lambda: None,
) -> Composed:
    """Compose adapters of one base.

    With a base and validation rows of at least one parent, the trials' scales are swept (unless `spec.scale` fixes it)
    within `spec.evaluations`, on rows that the report does not use where there are enough; the point that keeps most
    of its worst parent wins, but never one that on the reported rows keeps less of it than the best plain linear
    point. Without them nothing can be chosen: the first trial is taken at its own scale, and every parent is
    `unmeasured`.

    Args:
        parents: one or more.
        spec: rank, scale, seed, budget and minimum retention are taken from it.
        trials: ways to compose. The first one is the baseline that the result must not fall below, plain linear.
            Further ones compete with it; a strategy that was asked for by name is the last, and then wins over them.
        base: in memory, without adapters.
        report: told of phases and candidates as events.
        between: called between batches; what it raises ends the composition.

    Raises:
        InvalidSpec: weights that are not finite, a rank above the sum of ranks, a rank for an exact strategy.
        Incompatible: adapters of different bases, or with parts that do not add up; a resolver that refuses.
        PluginError: a kernel raised.

    """
    started = time.monotonic()
    check_spec(parents, spec)
    check_fingerprints(parents)
    report({"type": "phase", "data": {"name": "read"}})
    adapters = _read(parents)
    _check_rank(adapters, spec, trials)
    weights = tuple(parent.weight for parent in parents)
    if len(parents) == 1:
        return _alone(parents[0], adapters[0], spec, base=base, between=between, started=started)
    report({"type": "phase", "data": {"name": "core space"}})
    core = core_space.build(adapters)
    diagnosis = conflicts.diagnose(core)
    report({"type": "report", "data": {"name": "conflicts", "report": diagnosis.model_dump()}})
    bench = _bench(parents, base, between)
    composer = Composer(core, rank=spec.rank, seed=mixed_seed(spec.seed, adapters))
    if bench is None:
        return _unmeasured(parents, spec, trials, composer, diagnosis, weights, adapters, started)
    report({"type": "phase", "data": {"name": "measure the parents"}})
    updates = [adapter.factors for adapter in adapters]
    search = Search(
        composer,
        bench,
        base=bench.measure(None),
        own=bench.measure_parents(updates),
        budget=spec.evaluations,
        tell=lambda text: report({"type": "message", "message": text}),
    )
    report({"type": "phase", "data": {"name": "search"}})
    linear, best = _run(search, trials, weights, spec)
    report({"type": "phase", "data": {"name": "measure the composition"}})
    chosen, lines, won_by = _final(parents, bench, composer, updates, linear, best, exclusive=spec.strategy != "auto")
    made = composer(chosen.trial, chosen.scale, chosen.weights)
    below = below_retention(lines, spec.min_retention)
    return Composed(
        factors=made,
        config=factors.common_config(adapters),
        report=CompositionReport(
            **_described(chosen.trial, chosen.scale, chosen.weights, made),
            conflicts=diagnosis,
            retention=lines,
            rows="report" if any(r is not None and r.divided for r in bench.rows) else "selection",
            candidates=tuple(point.candidate() for point in search.points),
            evaluations=len(search.points),
            won_by=won_by,
            seconds=time.monotonic() - started,
            below_retention=below,
            advice=_advice(lines, below, bench),
        ),
    )


def check_spec(parents: Sequence[ParentInput], spec: ComposeSpec) -> None:
    """Refuse weights that cannot work, and names that stand twice.

    Raises:
        InvalidSpec: with all of them.

    """
    problems = [
        errors.Problem(where=f"weight of {p.name}", what=f"{p.weight} is not a finite number")
        for p in parents
        if not math.isfinite(p.weight)
    ]
    if all(parent.weight == 0 for parent in parents):
        problems.append(errors.Problem(where="weights", what="all are zero, so nothing would be composed"))
    names = [parent.name for parent in parents]
    problems += [
        errors.Problem(where="parents", what=f"{name} is named twice", fix="give it once, with a larger weight")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if not parents:
        problems.append(errors.Problem(where="parents", what="there are none"))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")


def check_fingerprints(parents: Sequence[ParentInput]) -> None:
    """Refuse parents of different bases, saying which.

    Raises:
        Incompatible: see above.

    """
    known = {parent.base_fingerprint for parent in parents if parent.base_fingerprint}
    if len(known) > 1:
        raise errors.Incompatible(
            [
                errors.Problem(where=p.name, what=f"was trained on the base {(p.base_fingerprint or 'unknown')[:12]}")
                for p in parents
            ],
            subject="the adapters are of different bases",
        )


def mixed_seed(seed: int, adapters: Sequence[Adapter]) -> int:
    """Mix a seed with the parents' content, whatever their order."""
    text = ":".join([str(seed), *sorted(adapter.digest for adapter in adapters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def below_retention(lines: Sequence[Retention], least: float | None) -> tuple[str, ...]:
    """Name the parents that keep less than asked for, or that got worse than the base without a gain to keep."""
    if least is None:
        return ()
    return tuple(
        line.parent
        for line in lines
        if (line.retention is not None and line.retention < least)
        or (line.status == "undefined" and line.composed is not None and line.composed > (line.base or 0.0))
    )


def _read(parents: Sequence[ParentInput]) -> list[Adapter]:
    """Read all parents, collecting what is wrong with any of them."""
    adapters: list[Adapter] = []
    problems: list[errors.Problem] = []
    for parent in parents:
        try:
            adapters.append(factors.read(parent.folder, parent.name))
        except errors.Incompatible as error:
            problems += [
                errors.Problem(where=f"{parent.name} {p.where}".strip(), what=p.what, fix=p.fix) for p in error.problems
            ]
    if problems:
        raise errors.Incompatible(problems, subject="these adapters cannot be composed")
    return adapters


def _check_rank(adapters: Sequence[Adapter], spec: ComposeSpec, trials: Sequence[Trial]) -> None:
    total = sum(adapter.rank for adapter in adapters)
    problems: list[errors.Problem] = []
    if isinstance(spec.rank, int) and spec.rank > total:
        what = f"{spec.rank} is more than the parents' ranks together, {total}"
        problems.append(errors.Problem(where="rank", what=what, fix=f"ask for at most {total}"))
    if spec.rank is not None and trials[-1].exact and len(adapters) > 1:
        what = f"{trials[-1].strategy} is exact and is never truncated"
        problems.append(errors.Problem(where="rank", what=what, fix="leave the rank out, or use linear"))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")


def _bench(parents: Sequence[ParentInput], base: Base | None, between: Callable[[], None]) -> Bench | None:
    if base is None or not any(parent.validation for parent in parents):
        return None
    rows: list[Rows | None] = []
    for parent in parents:
        subject = f"validation rows of {parent.name}"
        tokenized = retention.tokenize(parent.validation, base, system=parent.system, subject=subject)
        rows.append(retention.divide(tokenized) if tokenized else None)
    return Bench(base, rows, between=between)


def _run(search: Search, trials: Sequence[Trial], weights: tuple[float, ...], spec: ComposeSpec) -> tuple[Point, Point]:
    """Spend the budget; return the best plain linear point and the best of what was asked for."""
    baseline, asked = trials[0], trials if spec.strategy == "auto" else trials[-1:]
    if spec.scale is not None:
        linear = search.at(baseline, spec.scale, weights)
        return linear, max((search.at(trial, spec.scale, weights) for trial in asked), key=lambda p: p.rank_key)
    search.sweep([baseline], weights, budget=max(1, spec.evaluations // 4))
    search.sweep(asked, weights, budget=search.left - search.left // 4 if spec.strategy == "auto" else None)
    if spec.strategy == "auto" and len(set(weights)) == 1:
        search.balance(search.best())
    labels = {trial.label for trial in asked}
    best = max((p for p in search.points if p.trial.label in labels), key=lambda p: p.rank_key)
    return search.best(baseline), best


def _final(
    parents: Sequence[ParentInput],
    bench: Bench,
    composer: Composer,
    updates: Sequence[Mapping[str, Factors]],
    linear: Point,
    best: Point,
    *,
    exclusive: bool,
) -> tuple[Point, tuple[Retention, ...], float | None]:
    """Measure on the rows for the report; fall back to plain linear where the winner is worse there."""
    base = bench.measure(None, on_report=True)
    own = bench.measure_parents(updates, on_report=True)
    of_linear = bench.measure(composer(linear.trial, linear.scale, linear.weights), on_report=True)
    of_best = of_linear
    if best is not linear:
        of_best = bench.measure(composer(best.trial, best.scale, best.weights), on_report=True)
    worst = [_worst(base, own, measured) for measured in (of_best, of_linear)]
    won_by = None if worst[0] is None or worst[1] is None else worst[0] - worst[1]
    if won_by is not None and won_by < 0 and not exclusive:
        best, of_best, won_by = linear, of_linear, 0.0
    lines = tuple(
        retention.row(parent.name, base=b, own=o, composed=c, linear=plain)
        for parent, b, o, c, plain in zip(parents, base, own, of_best, of_linear, strict=True)
    )
    return best, lines, won_by


def _worst(
    base: Sequence[TokenMetrics | None], own: Sequence[TokenMetrics | None], composed: Sequence[TokenMetrics | None]
) -> float | None:
    kept = [retention.kept(b, o, c) for b, o, c in zip(base, own, composed, strict=True)]
    return min((k for k in kept if k is not None), default=None)


def _alone(
    parent: ParentInput,
    adapter: Adapter,
    spec: ComposeSpec,
    *,
    base: Base | None,
    between: Callable[[], None],
    started: float,
) -> Composed:
    """Compose a single adapter: itself, only scaled and truncated where that was asked for."""
    scale = parent.weight * (spec.scale or 1.0)
    core = core_space.build([adapter])
    made: Mapping[str, Factors] = {path: update.scaled(scale) for path, update in adapter.factors.items()}
    if spec.rank is not None:
        made = core_space.lift(core, core.merge((scale,), lambda block, w: block.cores[0]), spec.rank)
    unchanged = scale == 1 and (spec.rank is None or {spec.rank} == {f.rank for f in adapter.factors.values()})
    lines: tuple[Retention, ...] = (Retention(parent=parent.name, status="unmeasured"),)
    bench = _bench([parent], base, between)
    if bench is not None:
        before = bench.measure(None, on_report=True)[0]
        own = bench.measure(adapter.factors, on_report=True)[0]
        composed = own if unchanged else bench.measure(made, on_report=True)[0]
        lines = (retention.row(parent.name, base=before, own=own, composed=composed),)
    return Composed(
        factors=made,
        config=factors.common_config([adapter]),
        copy_of=parent.folder if unchanged else None,
        report=CompositionReport(
            strategy="linear",
            scale=spec.scale or 1.0,
            weights=(parent.weight,),
            rank=max(update.rank for update in made.values()),
            conflicts=ConflictReport(parents=(parent.name,)),
            retention=lines,
            rows="none" if bench is None else "report",
            seconds=time.monotonic() - started,
            below_retention=below_retention(lines, spec.min_retention),
        ),
    )


def _unmeasured(
    parents: Sequence[ParentInput],
    spec: ComposeSpec,
    trials: Sequence[Trial],
    composer: Composer,
    diagnosis: ConflictReport,
    weights: tuple[float, ...],
    adapters: Sequence[Adapter],
    started: float,
) -> Composed:
    trial = trials[0] if spec.strategy == "auto" else trials[-1]
    if trial.needs_data:
        what = f"{trial.strategy} fits the parents' validation examples, and there are none"
        fix = "give the parents validation data and the base, or choose another strategy"
        raise errors.InvalidSpec(errors.Problem(where="strategy", what=what, fix=fix), subject="composition")
    scale = spec.scale or trial.scale
    made = composer(trial, scale, weights)
    return Composed(
        factors=made,
        config=factors.common_config(adapters),
        report=CompositionReport(
            **_described(trial, scale, weights, made),
            conflicts=diagnosis,
            retention=tuple(Retention(parent=parent.name, status="unmeasured") for parent in parents),
            seconds=time.monotonic() - started,
            advice=(
                "nothing was measured: no parent has validation rows, or no base was given; "
                "the scale is a guess that held on other adapters",
            ),
        ),
    )


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


def _advice(lines: Sequence[Retention], below: Sequence[str], bench: Bench) -> tuple[str, ...]:
    found: list[str] = []
    for line in lines:
        if line.parent in below:
            kept = "got worse than the base" if line.retention is None else f"keeps {line.retention:.2f} of its gain"
            found.append(
                f"{line.parent} {kept}: give it more weight, a higher rank, or keep it apart and switch at run time"
            )
        elif line.status == "undefined":
            found.append(f"{line.parent} itself gains less than two standard errors over the base on its rows")
    if any(rows is not None and not rows.divided for rows in bench.rows):
        found.append("a parent has too few validation rows to set some apart from the search, so its figure flatters")
    return tuple(found)
