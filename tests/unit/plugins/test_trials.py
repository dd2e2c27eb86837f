"""Trials made from a specification."""

from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.plugins import trials
from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.specs.jobs import ComposeSpec


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(entry_points=False)


def spec(count: int = 4, **fields: object) -> ComposeSpec:
    return ComposeSpec.of({"adapter": "x", "parents": [{"adapter": f"p{t}"} for t in range(count)], **fields})


def test_auto_starts_with_plain_linear_at_one_over_the_root_of_the_parents(catalog: Catalog) -> None:
    labels = [(trial.label, trial.initial_scale) for trial in trials.make_trials(spec(), catalog)]
    assert labels == [("linear", 0.5), ("regmean", 1.0), ("tsv", 0.7579), ("calibrate then linear norm=parents", 1.0)]


def test_auto_runs_the_requested_resolver_before_all_trials_but_the_baseline(catalog: Catalog) -> None:
    requested = spec(resolver="priority", resolver_parameters={"sides": "both"})
    labels = [trial.label for trial in trials.make_trials(requested, catalog)]
    assert labels == ["linear", *(f"priority sides=both then {name}" for name in ("linear", "regmean", "tsv"))]


def test_requested_strategy_follows_the_baseline(catalog: Catalog) -> None:
    requested = spec(strategy="ties", parameters={"density": 0.3}, resolver="drop")
    baseline, named = trials.make_trials(requested, catalog)
    assert (baseline.label, named.label) == ("linear", "drop then ties density=0.3")


@pytest.mark.parametrize(
    ("strategy", "parameters", "scale"),
    [
        ("linear", {}, 0.5),
        ("linear", {"norm": "parents"}, 1.0),
        ("ties", {}, 1.0),
        ("dare", {"drop": 0.2}, 0.5),
        ("dare", {"drop": 0.2, "elect": True}, 1.0),
    ],
)
def test_initial_scale_is_smaller_for_sums_than_for_means(
    catalog: Catalog, strategy: str, parameters: dict[str, object], scale: float
) -> None:
    assert trials.make_trials(spec(strategy=strategy, parameters=parameters), catalog)[-1].initial_scale == scale


def test_check_refuses_unknown_names_and_invalid_parameters(catalog: Catalog) -> None:
    trials.check_strategy(spec(), catalog)
    with pytest.raises(errors.NotFound, match="did you mean 'ties'"):
        trials.check_strategy(spec(strategy="tie"), catalog)
    with pytest.raises(errors.NotFound, match="priority"):
        trials.check_resolver(spec(resolver="priorty"), catalog)
    with pytest.raises(errors.InvalidSpec, match="did you mean density"):
        trials.check_strategy(spec(strategy="ties", parameters={"densty": 0.5}), catalog)
    with pytest.raises(errors.InvalidSpec, match="density"):
        trials.check_strategy(spec(strategy="ties", parameters={"density": 0}), catalog)
    with pytest.raises(errors.InvalidSpec, match="threshold"):
        trials.check_resolver(spec(resolver="refuse", resolver_parameters={"threshold": 2}), catalog)
    with pytest.raises(errors.InvalidSpec, match="auto takes no parameters, but density"):
        trials.check_strategy(spec(parameters={"density": 0.5}), catalog)
    with pytest.raises(errors.InvalidSpec, match="evaluations"):
        trials.check_strategy(spec(strategy="ties", evaluations=1), catalog)
