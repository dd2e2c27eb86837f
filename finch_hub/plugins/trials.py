"""Trials of a composition, built from the names in its specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.plugins.catalog import Catalog
from finch_hub.specs.jobs import ComposeSpec

if TYPE_CHECKING:
    from finch_hub.engine.composition.trial import Trial

# Trials of `auto` after plain linear: strategy, its parameters, and resolver (see docs/composition.md).
_AUTO: tuple[tuple[str, Mapping[str, object], str], ...] = (
    ("regmean", {}, "keep"),
    ("tsv", {}, "keep"),
    ("linear", {"norm": "parents"}, "calibrate"),
)


def check_strategy(spec: ComposeSpec, catalog: Catalog) -> None:
    """Refuse an unknown strategy or invalid parameters, without importing the kernel.

    Raises:
        NotFound: there is no such strategy.
        InvalidSpec: the parameters do not match the schema, ``auto`` has parameters, or there are too few evaluations.
    """
    _check_evaluations(spec)
    if spec.strategy != "auto":
        catalog.strategies[spec.strategy].parse(spec.parameters)
    elif spec.parameters:
        what = f"the strategy auto takes no parameters, but {', '.join(sorted(spec.parameters))} was given"
        raise errors.InvalidSpec(what, where="parameters", fix="name a strategy that takes them")


def check_resolver(spec: ComposeSpec, catalog: Catalog) -> None:
    """Refuse an unknown resolver or invalid parameters, without importing the kernel.

    Raises:
        NotFound: there is no such resolver.
        InvalidSpec: the parameters do not match the schema.
    """
    catalog.resolvers[spec.resolver].parse(spec.resolver_parameters)


def make_trials(spec: ComposeSpec, catalog: Catalog) -> tuple[Trial, ...]:
    """Return the trials of a specification, plain linear first.

    A strategy that is requested by name is the second trial. The strategy ``auto`` has several trials. With another
    resolver than `keep`, that resolver comes before each trial but the first, and before an additional linear.

    Raises:
        NotFound: there is no such strategy or resolver.
        InvalidSpec: parameters do not match their schema, or there are too few evaluations.
        PluginError: a kernel cannot be imported.
    """
    from finch_hub.engine.composition.trial import Trial  # imports torch

    _check_evaluations(spec)
    given = (spec.resolver, spec.resolver_parameters)
    settings: list[tuple[str, Mapping[str, object], str, Mapping[str, object]]] = [("linear", {}, "keep", {})]
    if spec.strategy != "auto":
        settings.append((spec.strategy, spec.parameters, *given))
    elif spec.resolver == "keep":
        settings += [(strategy, parameters, resolver, {}) for strategy, parameters, resolver in _AUTO]
    else:
        settings.append(("linear", {}, *given))
        settings += [(strategy, parameters, *given) for strategy, parameters, resolver in _AUTO if resolver == "keep"]
    trials: list[Trial] = []
    for strategy, parameters, resolver, resolver_parameters in settings:
        merging, resolving = catalog.strategies[strategy], catalog.resolvers[resolver]
        values = merging.parse(parameters)
        trials.append(
            Trial(
                strategy=strategy,
                merge=merging.load(),
                parameters=values,
                resolver=resolver,
                resolve=resolving.load(),
                resolver_parameters=resolving.parse(resolver_parameters),
                initial_scale=merging.initial_scale(values, parents=len(spec.parents)),
                is_exact=merging.exact,
                needs_data=merging.needs_data,
            )
        )
    return tuple(trials)


def _check_evaluations(spec: ComposeSpec) -> None:
    if spec.strategy != "auto" and spec.evaluations < 2:
        what = f"{spec.evaluations} is not enough to measure the strategy and plain linear"
        raise errors.InvalidSpec(what, where="evaluations", fix="allow two or more")
