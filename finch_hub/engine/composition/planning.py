"""Report of the conflicts of adapters before they are composed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition import conflicts, core_space, forecast, interference, retention
from finch_hub.engine.composition.composer import Composer
from finch_hub.engine.composition.forecast import OutputMatch
from finch_hub.engine.composition.interference import Interference
from finch_hub.engine.composition.measurement import Measurement, count_rows, tokenize_validation
from finch_hub.engine.composition.parents import ParentAdapter, ParentInput, check_parents, read_parents
from finch_hub.engine.composition.trial import Trial
from finch_hub.specs.reports import ConflictReport, Forecast


def plan(parents: Sequence[ParentInput], trials: Sequence[Trial] = (), *, base: Base | None = None) -> ConflictReport:
    """Report the conflicts of adapters without composing them.

    Reasons why adapters cannot be composed are returned in `structural`, not raised. With a base and validation rows,
    the report also has the interference on real inputs and forecasts of the trials that need no data.

    Raises:
        NotFound: a parent's file is missing.
    """
    structural: list[str] = []
    adapters: list[ParentAdapter] = []
    core: core_space.CoreSpace | None = None
    with _collect_problems(structural):
        check_parents(parents)
    with _collect_problems(structural):
        adapters = read_parents(parents)
    if len(parents) > 1 and not structural:
        with _collect_problems(structural):
            core = core_space.build(adapters)
    if core is None:
        alone = "a single adapter has no conflicts: a composition copies it, scales it or reduces its rank"
        return ConflictReport(
            parents=tuple(parent.name for parent in parents),
            structural=tuple(structural),
            advice="keep apart and switch" if structural else "compose",
            reasons=tuple(structural) or (alone,),
        )
    if base is None or not any(parent.validation for parent in parents):
        found = conflicts.diagnose(core)
        unmeasured = ("nothing was measured on examples: no adapter has validation rows",) if base is not None else ()
        return found.evolve(reasons=found.reasons + unmeasured)
    with Measurement(base, adapters, tokenize_validation(parents, base)) as measurement:
        measured = interference.measure(core, adapters, measurement)
        forecasts = _forecast_trials(core, trials, measured, measurement)
        rows = count_rows(core.parents, measurement.rows)
    return conflicts.diagnose(core, measured.ratios, measured.shifts).evolve(forecasts=forecasts, rows=rows)


@contextlib.contextmanager
def _collect_problems(structural: list[str]) -> Iterator[None]:
    try:
        yield
    except errors.InvalidInput as error:
        structural += map(str, error.problems)


def _forecast_trials(
    core: core_space.CoreSpace, trials: Sequence[Trial], measured: Interference, measurement: Measurement
) -> tuple[Forecast, ...]:
    """Return a forecast of each trial at equal weights, the best worst parent first."""
    weights = (1.0,) * len(core.parents)
    composer = Composer(core=core, weights=weights, rank=None, seed=0)
    matches: dict[str, tuple[OutputMatch | None, ...]] = {}
    for trial in (trial for trial in trials if not trial.needs_data):
        _, merged = composer.merge(trial, weights)
        matrices = {module: update for module, update in merged.items() if isinstance(update, Tensor)}
        if len(matrices) == len(merged):
            matches[trial.label] = forecast.match_outputs(core, matrices, measured.moments)
    if not matches:
        return ()
    linear = trials[0]  # every list of trials begins with plain linear
    bare, own = measurement.measure(None), measurement.measure_parents()
    composed = measurement.measure(composer.compose(linear, 1.0, weights))
    kept = map(retention.compute, bare, own, composed)
    penalties = forecast.fit_penalties(matches[linear.label], tuple(kept))
    forecasts = [forecast.forecast_best_scale(label, outputs, penalties) for label, outputs in matches.items()]
    known = [f for f in forecasts if f is not None]
    return tuple(sorted(known, key=lambda f: min(k for k in f.kept if k is not None), reverse=True))
