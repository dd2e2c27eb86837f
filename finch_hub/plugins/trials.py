"""From the names in a `ComposeSpec` to what the composition engine runs: kernels, parameters, where sweeps begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finch_hub.plugins.catalogue import Catalogue
from finch_hub.specs.jobs import ComposeSpec

if TYPE_CHECKING:
    from finch_hub.engine.composition.search import Trial

# What `auto` tries after plain linear: strategy, its parameters, resolver, its parameters (docs/composition.md).
_AUTO: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("regmean", {}, "keep"),
    ("tsv", {}, "keep"),
    ("linear", {"norm": "parents"}, "calibrate"),
)


def check(spec: ComposeSpec, catalogue: Catalogue) -> None:
    """Refuse unknown names and parameters without importing any kernel.

    Raises:
        NotFound: there is no such strategy or resolver.
        InvalidSpec: parameters that its schema refuses.

    """
    if spec.strategy != "auto":
        catalogue.strategies[spec.strategy].parse(spec.parameters)
    catalogue.resolvers[spec.resolver].parse(spec.resolver_parameters)


def trials(spec: ComposeSpec, catalogue: Catalogue) -> tuple[Trial, ...]:
    """Return the ways to compose that a specification asks for, plain linear first.

    With a strategy's name there are two: the baseline, and that one. With ``auto`` and the resolver ``keep`` there are
    all that `auto` tries; another resolver goes before every one of them, but for the baseline.

    Raises:
        NotFound: there is no such strategy or resolver.
        InvalidSpec: parameters that its schema refuses.
        PluginError: a kernel cannot be imported.

    """
    count = len(spec.parents)
    found = [_trial(catalogue, count, "linear", {}, "keep", {})]
    if spec.strategy != "auto":
        asked = _trial(catalogue, count, spec.strategy, spec.parameters, spec.resolver, spec.resolver_parameters)
        return (*found, asked)
    for strategy, parameters, resolver in _AUTO:
        if spec.resolver == "keep":
            found.append(_trial(catalogue, count, strategy, parameters, resolver, {}))
        elif resolver == "keep":
            found.append(_trial(catalogue, count, strategy, parameters, spec.resolver, spec.resolver_parameters))
    return tuple(found)


def _trial(
    catalogue: Catalogue,
    count: int,
    strategy: str,
    parameters: dict[str, Any],
    resolver: str,
    resolver_parameters: dict[str, Any],
) -> Trial:
    from finch_hub.engine.composition.search import Trial

    chosen, before = catalogue.strategies[strategy], catalogue.resolvers[resolver]
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
