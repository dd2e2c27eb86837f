"""Refusal to compose parents that conflict too much."""

from __future__ import annotations

from finch_hub import errors
from finch_hub.engine.composition import conflicts, core_space
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.plugins.resolvers.parameters import RefuseParameters


def resolve(core: CoreSpace, parameters: RefuseParameters) -> CoreSpace:
    """Return the core space unchanged, or raise if a measure of conflict exceeds the threshold.

    Raises:
        Incompatible: a measure exceeds the threshold; it names each such pair, or each module of a pair.
    """
    measured = tuple(
        conflict
        for conflict in conflicts.measure_modules(core)
        if core_space.matches(parameters.modules, conflict.module)
    )
    if not parameters.each_module:
        measured = conflicts.summarize_pairs(core, measured)
    problems = [
        errors.Problem(
            where=" ".join(part for part in (f"{conflict.first} and {conflict.second}", conflict.module) if part),
            what=f"{parameters.measure} {getattr(conflict, parameters.measure):.2f} exceeds {parameters.threshold:g}",
            fix="keep them apart and switch, raise the threshold, or use another resolver",
        )
        for conflict in measured
        if getattr(conflict, parameters.measure) > parameters.threshold
    ]
    if problems:
        raise errors.Incompatible(problems, subject="the resolver refuse stopped the composition")
    return core
