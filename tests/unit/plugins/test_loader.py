"""The loader: whatever a hook does or returns, only its own plugin's offers are missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.plugins import catalog as catalogs
from finch_hub.plugins import descriptors
from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.plugins.hooks import hookimpl
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

KINDS = dict(catalogs._HOOKS.values())
FIELDS: dict[type[descriptors.Descriptor], dict[str, Any]] = {
    descriptors.Preset: {
        "reasons": {},
        "system": "x",
        "lora": LoRAConfig(),
        "training": TrainingConfig(),
        "generation": GenerationConfig(),
    },
    descriptors.DatasetFormat: {"recognizes": {"x"}, "target": "a:b"},
    descriptors.BaseSource: {"matches": "a:b", "target": "a:b"},
}


def make(kind: type[descriptors.Descriptor], name: str = "good", **fields: Any) -> descriptors.Descriptor:
    return kind(**{"name": name, "summary": "x", **(FIELDS.get(kind, {"target": "a:b"})), **fields})


def unchecked(kind: type[descriptors.Descriptor], **fields: Any) -> descriptors.Descriptor:
    return kind.model_construct(**{"name": "bad", "summary": "x", **FIELDS.get(kind, {"target": "a:b"}), **fields})


def _construct(kind: Any, **fields: Any) -> Any:
    """Return a value that was not validated."""
    return kind.model_construct(**fields)


def _raise(error: BaseException) -> Any:
    raise error


def _fail_late(kind: type[descriptors.Descriptor]) -> Iterator[descriptors.Descriptor]:
    yield make(kind, "early")
    raise RuntimeError("late")


class Strange(Exception):
    def __str__(self) -> str:
        raise ValueError


class Hostile:
    def __iter__(self) -> Iterator[object]:
        raise SystemExit(4)

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")


MISBEHAVIORS: dict[str, Callable[[type[descriptors.Descriptor]], Any]] = {
    "raises": lambda kind: _raise(RuntimeError("broken \x1b[31m")),
    "raises an error of its own": lambda kind: _raise(Strange()),
    "exits": lambda kind: _raise(SystemExit(3)),
    "raises no Exception": lambda kind: _raise(BaseException("odd")),
    "is cancelled": lambda kind: _raise(GeneratorExit()),
    "recurses": lambda kind: MISBEHAVIORS["recurses"](kind),
    "returns None": lambda kind: None,
    "returns a text": lambda kind: "linear",
    "returns a number": lambda kind: 7,
    "returns a mapping": lambda kind: {"good": make(kind)},
    "returns one descriptor": make,
    "fails after the first offer": _fail_late,
    "never stops": lambda kind: (make(kind, f"n{number}") for number in itertools.count()),
    "returns something hostile": lambda kind: Hostile(),
    "returns texts": lambda kind: ["linear"],
    "returns hostile offers": lambda kind: [Hostile()],
    "returns classes": lambda kind: [kind],
    "returns an unchecked name": lambda kind: [unchecked(kind, name="\x1b[31mred")],
    "returns a name of another type": lambda kind: [unchecked(kind, name=7)],
    "returns an unchecked summary": lambda kind: [unchecked(kind, summary=None)],
    "returns an empty descriptor": lambda kind: [_construct(kind)],
}


def load(*plugins: object) -> Catalog:
    return load_catalog(entry_points=False, extra=plugins)


def plugin(name: str, hook: str, function: Callable[[], Any]) -> SimpleNamespace:
    return SimpleNamespace(__name__=name, **{hook: hookimpl(lambda: function())})


@pytest.mark.parametrize("hook", KINDS)
@pytest.mark.parametrize("misbehavior", MISBEHAVIORS)
def test_bad_hook_costs_only_its_own_offers(hook: str, misbehavior: str) -> None:
    kind = KINDS[hook]
    bad = plugin("bad", hook, lambda: MISBEHAVIORS[misbehavior](kind))
    catalog = load(bad, plugin("fine", hook, lambda: [make(kind)]))
    (problem,) = catalog.problems
    assert problem.where == "plugin bad"
    assert str(problem).isprintable()
    (offers,) = (offers for offers in catalog.all_offers() if offers._hook == hook)
    builtin = next(offers for offers in load().all_offers() if offers._hook == hook)
    assert set(offers) == {*builtin, "good"}
    assert offers.plugin_of("good") == "fine"
    with pytest.raises((errors.NotFound, errors.PluginError)) as missed:
        offers["zebra"]
    if "offer" not in problem.what:
        assert "plugin bad: " in str(missed.value), "the error says which plugin may have it"


@pytest.mark.parametrize("hook", KINDS)
def test_bad_offers_cost_no_others_of_the_hook(hook: str) -> None:
    kind = KINDS[hook]
    catalog = load(plugin("half", hook, lambda: [7, make(kind), unchecked(kind, name="")]))
    assert len(catalog.problems) == 2
    (offers,) = (offers for offers in catalog.all_offers() if offers._hook == hook)
    assert "good" in offers


@pytest.mark.parametrize("hook", KINDS)
def test_name_that_one_plugin_offers_twice_is_not_used(hook: str) -> None:
    kind = KINDS[hook]
    catalog = load(plugin("twins", hook, lambda: [make(kind), make(kind, summary="another")]))
    (problem,) = catalog.problems
    assert "'good' is offered twice by plugin twins" in problem.what


def test_fields_that_were_not_validated_are_refused() -> None:
    odd = unchecked(descriptors.Preset, lora=_construct(LoRAConfig, rank="many"))
    catalog = load(plugin("odd", "finch_presets", lambda: [odd]))
    (problem,) = catalog.problems
    assert "lora.rank" in problem.what


def test_subclass_of_a_descriptor_cannot_change_what_it_does() -> None:
    class Mine(descriptors.BaseSource):
        def accepts(self, source: str) -> bool:
            raise SystemExit(3)

    mine = make(Mine, **FIELDS[descriptors.BaseSource])
    catalog = load(plugin("mine", "finch_base_sources", lambda: [mine]))
    assert type(catalog.base_sources["good"]) is descriptors.BaseSource


def test_summary_is_one_line_that_prints() -> None:
    made = make(descriptors.Listener, summary="rings\n the \x1b]0;bell\x07")
    assert made.summary == "rings the \\x1b]0;bell\\x07"


def test_plugins_are_loaded_when_a_name_is_not_built_in() -> None:
    called: list[str] = []

    def offer() -> list[object]:
        called.append("presets")
        return []

    catalog = load(plugin("late", "finch_presets", offer))
    assert catalog.presets["medical"].name == "medical"
    assert catalog.strategies["linear"].name == "linear"
    assert catalog.base_source_of("owner/name").name == "hub"
    assert called == []
    assert "birds" not in catalog.presets
    assert "birds" not in catalog.presets
    assert called == ["presets"], "each hook is called once"
