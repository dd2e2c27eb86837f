"""Compose nothing where the parents conflict too much."""

from __future__ import annotations

import re

from finch_hub import errors
from finch_hub.engine.composition import conflicts
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.plugins.resolvers.parameters import RefuseParameters


def resolve(core: CoreSpace, parameters: RefuseParameters) -> CoreSpace:
    """Return the core space itself, or raise if a measure of conflict is above the threshold.

    Raises:
        Incompatible: naming every pair (and module, where each one is judged) above the threshold.

    """
    modules = tuple(
        conflict
        for conflict in conflicts.of_modules(core)
        if not parameters.modules or any(re.search(pattern, conflict.module) for pattern in parameters.modules)
    )
    judged = modules if parameters.each_module else conflicts.of_pairs(core, modules)
    problems = [
        errors.Problem(
            where=" ".join(part for part in (f"{conflict.first} and {conflict.second}", conflict.module) if part),
            what=f"{parameters.measure} {getattr(conflict, parameters.measure):.2f} is over {parameters.threshold:g}",
            fix="keep them apart and switch, raise the threshold, or resolve the conflict with another resolver",
        )
        for conflict in judged
        if getattr(conflict, parameters.measure) > parameters.threshold
    ]
    if problems:
        raise errors.Incompatible(problems, subject="refused to compose")
    return core
