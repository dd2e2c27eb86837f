"""Look at a composition before making it: what cannot go together, what conflicts, what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.composition import admission, conflicts, core_space, factors, interference
from finch_hub.engine.composition.admission import ParentInput
from finch_hub.engine.composition.bench import Bench, rows_of
from finch_hub.engine.composition.factors import Adapter
from finch_hub.specs.reports import ConflictReport

if TYPE_CHECKING:
    from finch_hub.engine.bases import Base


def plan(
    parents: Sequence[ParentInput], *, base: Base | None = None, between: Callable[[], None] = lambda: None
) -> ConflictReport:
    """Report the conflicts of adapters without composing them.

    What cannot be composed at all is named in `structural` instead of being raised. With a base and validation rows
    the interference on real inputs is measured as well.

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
        return conflicts.diagnose(core, *interference.measure(core, adapters, bench))
