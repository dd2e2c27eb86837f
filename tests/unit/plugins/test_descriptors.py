import pytest

from finch_hub import errors
from finch_hub.plugins.catalog import load_catalog
from finch_hub.plugins.descriptors import DatasetFormat, Strategy
from finch_hub.plugins.strategies.parameters import TiesParameters


def strategy(**fields: object) -> Strategy:
    return Strategy(**{"name": "mine", "summary": "x", "target": "json:loads", **fields})  # type: ignore[arg-type]


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
def test_what_is_no_descriptor(fields: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidInput) as refused:
        strategy(**fields)
    assert len(refused.value.problems) == 1


def test_a_target_is_imported_when_it_is_asked_for() -> None:
    import json

    assert strategy().load() is json.loads


@pytest.mark.parametrize("target", ["no_such_module:x", "json:no_such_attribute"])
def test_a_target_that_is_not_there_names_its_owner(target: str) -> None:
    with pytest.raises(errors.PluginError, match="Strategy 'mine'"):
        strategy(target=target).load()


def test_parameters_are_checked_all_at_once() -> None:
    ties = strategy(parameters=TiesParameters)
    assert ties.parse({"density": 1}) == TiesParameters(density=1.0)
    with pytest.raises(errors.InvalidSpec, match="parameters of mine") as refused:
        ties.parse({"density": 0, "desnity": 1})
    assert len(refused.value.problems) == 2
    with pytest.raises(errors.InvalidSpec):
        strategy().parse({"anything": 1})


def test_a_format_must_be_recognisable() -> None:
    with pytest.raises(errors.InvalidSpec):
        DatasetFormat(name="x", summary="x", recognizes=frozenset(), target="a:b")


def test_unknown_parameters_of_the_built_ins_are_refused() -> None:
    catalog = load_catalog(entry_points=False)
    for each in (*catalog.strategies.values(), *catalog.resolvers.values()):
        assert each.parse({}), "every parameter has a default"
        with pytest.raises(errors.InvalidSpec, match="no_such_parameter"):
            each.parse({"no_such_parameter": 1})
