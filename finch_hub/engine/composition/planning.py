"""Look at a composition before making it: what cannot go together, what conflicts, what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition import admission, conflicts, core_space, factors, interference
from finch_hub.engine.composition import forecast as forecasting
from finch_hub.engine.composition.admission import ParentInput
from finch_hub.engine.composition.bench import Bench, rows_of
from finch_hub.engine.composition.factors import Adapter
from finch_hub.engine.composition.search import Composer, Trial
from finch_hub.specs.reports import ConflictReport, Forecast

if TYPE_CHECKING:
    from finch_hub.engine.bases import Base


def plan(
    parents: Sequence[ParentInput],
    trials: Sequence[Trial] = (),
    *,
    base: Base | None = None,
    between: Callable[[], None] = lambda: None,
) -> ConflictReport:
    """Report the conflicts of adapters without composing them.

    What cannot be composed at all is named in `structural` instead of being raised. With a base and validation rows
    the interference on real inputs is measured as well, and what the trials would keep is forecast from it; those that
    need data themselves are left out.

    Raises:
        NotFound: a parent's files are missing.

    """
    structural: list[str] = []
    try:
        admission.check_parents(parents)
    except errors.InvalidInput as error:
        structural += [str(problem) for problem in error.problems]
    adapters: list[Adapter] = []
    for parent in parents:
        try:
            adapters.append(factors.read(parent.folder, parent.name))
        except errors.Incompatible as error:
            structural += [f"{parent.name}: {problem}" for problem in error.problems]
    try:
        core = core_space.build(adapters) if len(adapters) > 1 and not structural else None
    except errors.Incompatible as error:
        core = None
        structural += [str(problem) for problem in error.problems]
    if core is None:
        return ConflictReport(
            parents=tuple(parent.name for parent in parents),
            structural=tuple(structural),
            advice="keep apart and switch" if structural else "",
            reasons=tuple(structural),
        )
    if base is None or not any(parent.validation for parent in parents):
        return conflicts.diagnose(core)
    with Bench(base, adapters, rows_of(parents, base), between=between) as bench:
        probed = interference.measure(core, adapters, bench)
    report = conflicts.diagnose(core, probed.ratios, probed.shifts)
    return report.evolve(forecasts=_forecasts(core, trials, probed))


def _forecasts(
    core: core_space.CoreSpace, trials: Sequence[Trial], probed: interference.Interference
) -> tuple[Forecast, ...]:
    """Return what each trial would keep at equal weights, the best for its worst parent first."""
    composer = Composer(core, rank=None, seed=0)
    found: list[Forecast] = []
    for trial in trials:
        if trial.needs_data:
            continue
        _, merged = composer.merged(trial, (1.0,) * len(core.parents))
        between_bases = {module: update for module, update in merged.items() if isinstance(update, Tensor)}
        if len(between_bases) == len(merged):
            forecast = forecasting.best(trial.label, forecasting.fidelities(core, between_bases, probed.moments))
            found += [forecast] if forecast is not None else []
    return tuple(sorted(found, key=lambda forecast: min(k for k in forecast.kept if k is not None), reverse=True))
