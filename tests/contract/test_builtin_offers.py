"""Every built-in offer passes the checks for third-party plugins."""

import contextlib
import sys
import types
from typing import Any

import pytest

from finch_hub import testing
from finch_hub.plugins import builtin
from finch_hub.plugins.catalog import load_catalog
from finch_hub.plugins.descriptors import DatasetFormat, Descriptor, Preset, Resolver, Strategy

CATALOG = load_catalog(entry_points=False)
EVERYTHING = [descriptor for offers in CATALOG.all_offers() for descriptor in offers.values()]

STRATEGIES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("linear", {"norm": "parents"}),
    ("cat", {}),
    ("ties", {}),
    ("ties", {"density": 0.1}),
    ("dare", {}),
    ("dare", {"drop": 0.9, "elect": True}),
    ("tsv", {}),
    ("tsv", {"sides": "left"}),
    ("tsv", {"sides": "right", "keep": 1}),
]
RESOLVERS: list[tuple[str, dict[str, Any]]] = [
    ("keep", {}),
    ("priority", {}),
    ("priority", {"order": ["third", "first"]}),
    ("drop", {}),
    ("calibrate", {}),
    ("orthogonalize", {}),
    ("refuse", {"threshold": 1.0}),
]
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "prompt_completion": {"prompt": "a", "completion": "b"},
    "alpaca": {"instruction": "a", "output": "b"},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "text": {"text": "a"},
}


@pytest.mark.parametrize("descriptor", EVERYTHING, ids=lambda d: f"{type(d).__name__}-{d.name}")
def test_target_can_be_imported_and_called(descriptor: Descriptor) -> None:
    testing.check_descriptor(descriptor)


@pytest.mark.parametrize(("name", "parameters"), STRATEGIES)
def test_strategies(name: str, parameters: dict[str, Any]) -> None:
    testing.check_strategy(CATALOG.strategies[name], parameters)


@pytest.mark.parametrize(("name", "parameters"), RESOLVERS)
def test_resolvers(name: str, parameters: dict[str, Any]) -> None:
    testing.check_resolver(CATALOG.resolvers[name], parameters)


@pytest.mark.parametrize("dataset_format", CATALOG.dataset_formats.values(), ids=lambda d: d.name)
def test_dataset_formats(dataset_format: DatasetFormat) -> None:
    testing.check_dataset_format(dataset_format, ROWS[dataset_format.name])


def test_every_strategy_and_resolver_is_checked() -> None:
    measured = {name for name, _ in STRATEGIES} | {s.name for s in CATALOG.strategies.values() if s.needs_data}
    assert measured == set(CATALOG.strategies)
    assert {name for name, _ in RESOLVERS} == set(CATALOG.resolvers)


def test_engine_and_hub_have_the_same_row_formats() -> None:
    """The engine has its own list for use without the hub."""
    from finch_hub.engine.data import row_formats

    offered = [(d.name, d.recognizes, d.load()) for d in CATALOG.dataset_formats.values()]
    assert offered == [(known.name, known.fields, known.convert) for known in row_formats.BUILTIN]


def test_the_engine_and_the_hub_know_the_same_base_sources() -> None:
    """The engine has its own list, for use without the hub."""
    from finch_hub.engine.bases import sources
    from finch_hub.plugins.descriptors import load_target

    offered = [(load_target(s.matches, offered_by=s.name), s.load()) for s in CATALOG.base_sources.values()]
    assert offered == list(sources.BUILTIN)


@pytest.mark.parametrize("preset", CATALOG.presets.values(), ids=lambda p: p.name)
def test_presets_have_distinct_prompts_and_one_shape(preset: Preset) -> None:
    testing.check_descriptor(preset)
    assert len(preset.system) > 100
    assert not [other.name for other in CATALOG.presets.values() if other != preset and other.system == preset.system]
    shapes = {(p.lora.rank, p.lora.target_modules, p.lora.init) for p in CATALOG.presets.values()}
    assert len(shapes) == 1, "the built-in presets have one shape, so that their adapters compose well"


class Broken:
    """Kernels that each break one rule, so that each check fails once."""

    @staticmethod
    def changes_input(core: Any, weights: Any, parameters: Any, *, seed: int) -> Any:
        merged = core.merge(weights, lambda block, w: block.cores.sum(0))
        for block in core.blocks:
            block.cores.mul_(2)
        return merged

    @staticmethod
    def forgets_a_module(core: Any, weights: Any, parameters: Any, *, seed: int) -> Any:
        return dict(list(core.merge(weights, lambda block, w: block.cores.sum(0)).items())[1:])

    @staticmethod
    def is_unseeded(core: Any, weights: Any, parameters: Any, *, seed: int) -> Any:
        import torch

        return core.merge(weights, lambda block, w: torch.randn_like(block.cores[0]))

    @staticmethod
    def divides_by_zero(core: Any, weights: Any, parameters: Any, *, seed: int) -> Any:
        return core.merge(weights, lambda block, w: block.cores.sum(0) / 0)

    @staticmethod
    def shrinks_single_parents(core: Any, weights: Any, parameters: Any, *, seed: int) -> Any:
        return {name: 0.5 * sum(module.cores) for name, module in core.modules.items()}

    @staticmethod
    def takes_no_seed(core: Any, weights: Any, parameters: Any) -> Any:
        return {}

    @staticmethod
    def resolves_single_parents(core: Any, parameters: Any) -> Any:
        import dataclasses

        blocks = tuple(dataclasses.replace(block, cores=block.cores * 2) for block in core.blocks)
        return dataclasses.replace(core, blocks=blocks)

    @staticmethod
    def drops_a_block(core: Any, parameters: Any) -> Any:
        import dataclasses

        return dataclasses.replace(core, blocks=core.blocks[1:])


BREAKS = {
    "changes_input": "the input was changed",
    "forgets_a_module": "one matrix for every module",
    "is_unseeded": "differs between runs",
    "divides_by_zero": "is not finite",
    "shrinks_single_parents": "only one parent adapts it",
    "resolves_single_parents": "only one parent adapts it",
    "drops_a_block": "the modules must stay the same",
}


@pytest.mark.parametrize(("kernel", "says"), BREAKS.items())
def test_each_check_fails_for_a_broken_kernel(kernel: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import finch_hub.plugins.strategies.linear as module

    monkeypatch.setattr(module, "broken", getattr(Broken, kernel), raising=False)
    fields = {"name": "broken", "summary": "x", "target": "finch_hub.plugins.strategies.linear:broken"}
    is_resolver = kernel in ("resolves_single_parents", "drops_a_block")
    with pytest.raises(AssertionError, match=says):
        testing.check_resolver(Resolver(**fields)) if is_resolver else testing.check_strategy(Strategy(**fields))


def test_target_with_a_wrong_signature_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "takes_no_seed", Broken.takes_no_seed, raising=False)
    with pytest.raises(AssertionError, match="cannot be called"):
        testing.check_descriptor(Strategy(name="x", summary="x", target="finch_hub.plugins.builtin:takes_no_seed"))
    with pytest.raises(AssertionError, match="cannot load the target"):
        testing.check_descriptor(Strategy(name="x", summary="x", target="finch_hub.plugins.builtin:nothing"))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (Broken.takes_no_seed, r"theirs:target cannot be called with .*'seed'"),
        (type("Odd", (), {"__call__": len, "__wrapped__": property(lambda self: exit(3))})(), "theirs.* SystemExit: 3"),
        (lambda core, weights, parameters, *, seed: None, ""),
    ],
    ids=["no seed", "unreadable", "right"],
)
def test_signature_of_a_third_party_target_is_checked(
    target: object, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "theirs", types.SimpleNamespace(target=target))
    with pytest.raises(AssertionError, match=says) if says else contextlib.nullcontext():
        testing.check_descriptor(Strategy(name="x", summary="x", target="theirs:target"))


def test_preset_value_without_a_reason_fails_the_check() -> None:
    preset = CATALOG.presets["code"]
    fewer = {name: reason for name, reason in preset.reasons.items() if name != "lora.rank"}
    with pytest.raises(AssertionError, match=r"no reason for lora\.rank"):
        testing.check_descriptor(preset.evolve(reasons=fewer))
    with pytest.raises(AssertionError, match=r"a reason for training\.seed"):
        testing.check_descriptor(preset.evolve(reasons={**preset.reasons, "training.seed": "why"}))
