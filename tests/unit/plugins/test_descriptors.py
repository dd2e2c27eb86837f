"""Descriptors: validation, parameters and targets."""

from typing import Any

import pytest

from finch_hub import errors
from finch_hub.plugins.catalog import load_catalog
from finch_hub.plugins.descriptors import DatasetFormat, ExportFormat, Strategy
from finch_hub.plugins.strategies.parameters import TiesParameters


def strategy(**fields: Any) -> Strategy:
    return Strategy(**{"name": "mine", "summary": "x", "target": "json:loads", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "json"},
        {"target": "json:"},
        {"target": "../json:loads"},
        {"target": "json:loads()"},
        {"target": "os:system('x')"},
        {"name": "../mine"},
        {"name": ""},
        {"name": "auto"},
        {"summary": ""},
        {"parameters": dict},
        {"unknown": 1},
    ],
)
def test_invalid_descriptor_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        strategy(**fields)
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("fields", [{"base_model": "label"}, {"takes_system": True}])
def test_export_format_without_the_parameter_that_it_declares_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidSpec, match=f"{next(iter(fields))} is set, but the parameters have no field"):
        ExportFormat(name="mine", summary="x", target="json:loads", **fields)


def test_load_imports_the_target() -> None:
    import json

    assert strategy().load()("[1]") == json.loads("[1]")


@pytest.mark.parametrize("target", ["no_such_module:x", "json:no_such_attribute"])
def test_missing_target_names_its_owner(target: str) -> None:
    with pytest.raises(errors.PluginError, match="of strategy mine: "):
        strategy(target=target).load()


def test_all_invalid_parameters_are_reported_together() -> None:
    ties = strategy(parameters=TiesParameters)
    assert ties.parse({"density": 1}) == TiesParameters(density=1.0)
    with pytest.raises(errors.InvalidSpec, match="parameters of mine") as refused:
        ties.parse({"density": 0, "desnity": 1})
    assert len(refused.value.problems) == 2
    with pytest.raises(errors.InvalidSpec):
        strategy().parse({"anything": 1})


def test_format_without_fields_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec):
        DatasetFormat(name="x", summary="x", recognizes=frozenset(), target="a:b")


def test_unknown_parameters_of_the_built_ins_are_refused() -> None:
    catalog = load_catalog(entry_points=False)
    for descriptor in (*catalog.strategies.values(), *catalog.resolvers.values()):
        assert descriptor.parse({}), "every parameter has a default"
        with pytest.raises(errors.InvalidSpec, match="no_such_parameter"):
            descriptor.parse({"no_such_parameter": 1})
