"""Look at a composition before making it: what cannot go together, what conflicts, what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition import compatibility, conflicts, core_space, factors, interference, retention
from finch_hub.engine.composition import forecast as forecasting
from finch_hub.engine.composition.compatibility import ParentInput
from finch_hub.engine.composition.factors import Adapter
from finch_hub.engine.composition.measurement import Bench, rows_of
from finch_hub.engine.composition.search import Composer, Trial
from finch_hub.specs.reports import ConflictReport, Forecast

if TYPE_CHECKING:
    from finch_hub.engine.bases.loading import Base


def plan(
    parents: Sequence[ParentInput],
    trials: Sequence[Trial] = (),
    *,
    base: Base | None = None,
    between: Callable[[], None] = lambda: None,
) -> ConflictReport:
    """Report the conflicts of adapters without composing them.

    What cannot be composed at all is named in `structural` instead of being raised. With a base and validation rows
    the interference on real inputs is measured as well, and what the trials would keep of parents that gain is forecast
    from it and from what plain linear keeps; those that need data themselves are left out.

    Raises:
        NotFound: a parent's files are missing.

    """
    structural: list[str] = []
    try:
        compatibility.check_parents(parents)
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
        forecasts = _forecasts(core, trials, probed, bench)
    return conflicts.diagnose(core, probed.ratios, probed.shifts).evolve(forecasts=forecasts)


def _forecasts(
    core: core_space.CoreSpace, trials: Sequence[Trial], probed: interference.Interference, bench: Bench
) -> tuple[Forecast, ...]:
    """Return what each trial would keep at equal weights, the best for its worst parent first."""
    composer = Composer(core, rank=None, seed=0)
    weights = (1.0,) * len(core.parents)
    answers: dict[str, tuple[forecasting.Answer | None, ...]] = {}
    for trial in (trial for trial in trials if not trial.needs_data):
        _, merged = composer.merged(trial, weights)
        between_bases = {module: update for module, update in merged.items() if isinstance(update, Tensor)}
        if len(between_bases) == len(merged):
            answers[trial.label] = forecasting.answers(core, between_bases, probed.moments)
    if not answers:
        return ()
    plain = trials[0]  # linear, as of all lists of trials
    kept = map(
        retention.kept, bench.measure(None), bench.measure_parents(), bench.measure(composer(plain, 1.0, weights))
    )
    harms = forecasting.harms(answers[plain.label], tuple(kept))
    found = [forecasting.best(label, of_parents, harms) for label, of_parents in answers.items()]
    known = [forecast for forecast in found if forecast is not None]
    return tuple(sorted(known, key=lambda forecast: min(k for k in forecast.kept if k is not None), reverse=True))
