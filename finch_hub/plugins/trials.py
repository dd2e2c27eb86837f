"""From the names in a `ComposeSpec` to what the composition engine runs: kernels, parameters, where sweeps begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.plugins.catalog import Catalog
from finch_hub.specs.jobs import ComposeSpec

if TYPE_CHECKING:
    from finch_hub.engine.composition.search import Trial

# What `auto` tries after plain linear: strategy, its parameters, resolver, its parameters (docs/composition.md).
_AUTO: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("regmean", {}, "keep"),
    ("tsv", {}, "keep"),
    ("linear", {"norm": "parents"}, "calibrate"),
)


def check_strategy(spec: ComposeSpec, catalog: Catalog) -> None:
    """Refuse an unknown strategy and its parameters without importing any kernel.

    Raises:
        NotFound: there is no such strategy.
        InvalidSpec: parameters that its schema refuses, or any for ``auto``; too few evaluations.

    """
    _check_evaluations(spec)
    if spec.strategy != "auto":
        catalog.strategies[spec.strategy].parse(spec.parameters)
    elif spec.parameters:
        what = f"auto takes none, and {', '.join(sorted(spec.parameters))} would be left out"
        raise errors.InvalidSpec(errors.Problem(where="parameters", what=what, fix="name the strategy that takes them"))


def check_resolver(spec: ComposeSpec, catalog: Catalog) -> None:
    """Refuse an unknown resolver and its parameters without importing any kernel.

    Raises:
        NotFound: there is no such resolver.
        InvalidSpec: parameters that its schema refuses.

    """
    catalog.resolvers[spec.resolver].parse(spec.resolver_parameters)


def trials(spec: ComposeSpec, catalog: Catalog) -> tuple[Trial, ...]:
    """Return the ways to compose that a specification asks for, plain linear first.

    With a strategy's name there are two: the baseline, and that one. With ``auto`` and the resolver ``keep`` there are
    all that `auto` tries; another resolver goes before every one of them, and before linear besides the baseline.

    Raises:
        NotFound: there is no such strategy or resolver.
        InvalidSpec: parameters that its schema refuses, or too few evaluations.
        PluginError: a kernel cannot be imported.

    """
    _check_evaluations(spec)
    count = len(spec.parents)
    found = [_trial(catalog, count, "linear", {}, "keep", {})]
    if spec.strategy != "auto":
        asked = _trial(catalog, count, spec.strategy, spec.parameters, spec.resolver, spec.resolver_parameters)
        return (*found, asked)
    if spec.resolver != "keep":
        found.append(_trial(catalog, count, "linear", {}, spec.resolver, spec.resolver_parameters))
    for strategy, parameters, resolver in _AUTO:
        if spec.resolver == "keep":
            found.append(_trial(catalog, count, strategy, parameters, resolver, {}))
        elif resolver == "keep":
            found.append(_trial(catalog, count, strategy, parameters, spec.resolver, spec.resolver_parameters))
    return tuple(found)


def _check_evaluations(spec: ComposeSpec) -> None:
    if spec.strategy != "auto" and spec.evaluations < 2:
        what = "one is not enough for a strategy and the plain linear that it is held against"
        raise errors.InvalidSpec(errors.Problem(where="evaluations", what=what, fix="allow two or more"))


def _trial(
    catalog: Catalog,
    count: int,
    strategy: str,
    parameters: dict[str, Any],
    resolver: str,
    resolver_parameters: dict[str, Any],
) -> Trial:
    from finch_hub.engine.composition.search import Trial

    chosen, before = catalog.strategies[strategy], catalog.resolvers[resolver]
    values = chosen.parse(parameters)
    return Trial(
        strategy=strategy,
        merge=chosen.load(),
        parameters=values,
        resolver=resolver,
        resolve=before.load(),
        resolver_parameters=before.parse(resolver_parameters),
        scale=chosen.first_scale(values, parents=count),
        exact=chosen.exact,
        needs_data=chosen.needs_data,
    )
