"""Checks for plugin authors.

Each check raises AssertionError with the reason, so it works in any test framework::

    from finch_hub import testing
    import my_plugin

    def test_my_plugin() -> None:
        catalog = testing.check_plugin(my_plugin)
        testing.check_strategy(catalog.strategies["mine"])
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.plugins import foreign_code
from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.plugins.descriptors import (
    BaseSource,
    DatasetFormat,
    Descriptor,
    Evaluator,
    ExportFormat,
    Listener,
    Preset,
    Resolver,
    Runnable,
    Strategy,
)
from finch_hub.specs.examples import Example

if TYPE_CHECKING:
    from finch_hub.engine.composition.core_space import CoreSpace

# Number of positional arguments and names of keyword arguments that each kind of target is called with.
_CALLS: dict[type[Descriptor], tuple[int, tuple[str, ...]]] = {
    Strategy: (3, ("seed",)),
    Resolver: (2, ()),
    DatasetFormat: (1, ()),
    BaseSource: (1, ("cache", "progress")),
    ExportFormat: (4, ()),
    Evaluator: (3, ()),
    Listener: (1, ()),
}


def check_plugin(plugin: object) -> Catalog:
    """Load a plugin together with the built-in one, check its descriptors and return the catalog.

    The plugin must register. Its hooks must return descriptors of the right type, and no name may be taken already.
    Presets must give their reasons. Targets must import and accept the arguments that Finch Hub passes.
    """
    catalog = load_catalog(entry_points=False, extra=(plugin,))
    assert not catalog.problems, "\n".join(map(str, catalog.problems))
    plugin_name = catalog.plugins[0].name
    for offers in catalog.all_offers():
        for name, descriptor in offers.items():
            if offers.plugin_of(name) == plugin_name:
                check_descriptor(descriptor)
    return catalog


def check_descriptor(descriptor: Descriptor) -> None:
    """Check a preset's reasons, or that a target accepts the arguments that Finch Hub passes."""
    if isinstance(descriptor, Preset):
        _check_reasons(descriptor)
    if not isinstance(descriptor, Runnable):
        return
    count, named = _CALLS[type(descriptor)]
    if isinstance(descriptor, Strategy) and descriptor.needs_data:
        named = (*named, "parent_data")
    try:
        with foreign_code.blame(f"reading the signature of {descriptor.target}"):
            signature = inspect.signature(descriptor.load())
        signature.bind(*range(count), **dict.fromkeys(named))
    except errors.PluginError as error:
        raise AssertionError(str(error)) from error
    except TypeError as error:
        call = f"({count} arguments{''.join(f', {name}=' for name in named)})"
        raise AssertionError(f"{descriptor.target} cannot be called with {call}: {error}") from error


def check_strategy(strategy: Strategy, parameters: Mapping[str, Any] | None = None) -> None:
    """Run a strategy on random parents and check what every strategy must do.

    It must not change its input, and the same seed must give the same result. Every module needs a finite result of the
    core's shape. A module that only one parent adapts, at weight 1, must not change.
    """
    import torch

    from finch_hub.engine.composition.factors import Factors

    assert not strategy.needs_data, "test a strategy that needs data with real parent data"
    merge, values = strategy.load(), strategy.parse(parameters or {})
    core = example_core_space()
    before = [block.cores.clone() for block in core.blocks]
    weights = (1.0,) * len(core.parents)
    first, second = (merge(core, weights, values, seed=7) for _ in range(2))
    assert all(map(torch.equal, before, (block.cores for block in core.blocks))), "the input was changed"
    assert first.keys() == core.modules.keys(), "the result must have one matrix for every module"
    for name, module in core.modules.items():
        if isinstance(first[name], Factors):  # an exact strategy returns factors, which are stored without truncation
            assert bool(first[name].A.isfinite().all() and first[name].B.isfinite().all()), f"{name}: is not finite"
            continue
        assert first[name].shape == module.cores[0].shape, f"{name}: {first[name].shape}, not {module.cores[0].shape}"
        assert bool(first[name].isfinite().all()), f"{name}: is not finite"
        assert torch.equal(first[name], second[name]), f"{name}: differs between runs with the same seed"
        if len(module.present) == 1:
            alone = module.cores[module.present[0]]
            assert torch.allclose(first[name], alone), f"{name}: was changed, though only one parent adapts it"


def check_resolver(resolver: Resolver, parameters: Mapping[str, Any] | None = None) -> None:
    """Run a resolver on random parents and check what every resolver must do.

    It must not change its input, and must return finite cores for the same parents and modules. A module that only one
    parent adapts must not change. A resolver may also raise `errors.Incompatible`.
    """
    import torch

    resolve, values = resolver.load(), resolver.parse(parameters or {})
    core = example_core_space()
    before = [block.cores.clone() for block in core.blocks]
    try:
        resolved: CoreSpace = resolve(core, values)
    except errors.Incompatible:
        return
    assert all(map(torch.equal, before, (block.cores for block in core.blocks))), "the input was changed"
    assert resolved.parents == core.parents, "the parents must stay the same"
    assert resolved.modules.keys() == core.modules.keys(), "the modules must stay the same"
    for name, module in core.modules.items():
        after = resolved.modules[name]
        assert all(bool(matrix.isfinite().all()) for matrix in after.cores), f"{name}: is not finite"
        if len(module.present) == 1:
            is_same = all(map(torch.equal, module.cores, after.cores))
            assert is_same, f"{name}: was changed, though only one parent adapts it"


def check_dataset_format(dataset_format: DatasetFormat, row: Mapping[str, Any]) -> Example:
    """Convert a row, and damaged copies of it, which must raise `errors.InvalidSpec`."""
    assert dataset_format.recognizes <= row.keys(), f"the row lacks fields of {sorted(dataset_format.recognizes)}"
    convert = dataset_format.load()
    example = convert(row)
    assert isinstance(example, Example), f"the target returned {type(example).__name__}, not an Example"
    damages: tuple[Any, ...] = (None, 7, "", [], {}, [None], [{}])
    for field in dataset_format.recognizes:
        for damage in damages:
            try:
                convert({**row, field: damage})
            except errors.InvalidSpec:
                continue
            except Exception as error:
                what = f"{field}={damage!r} raised {type(error).__name__}: {error}; raise errors.InvalidSpec"
                raise AssertionError(what) from error
    return example


def example_core_space() -> CoreSpace:
    """Return the core space of three random parents of different ranks, one of which adapts a module alone."""
    import torch

    from finch_hub.engine.composition import core_space
    from finch_hub.engine.composition.factors import Factors
    from finch_hub.engine.composition.parents import ParentAdapter

    random = torch.Generator().manual_seed(0)

    def update(rank: int, outputs: int = 10, inputs: int = 8) -> Factors:
        return Factors(B=torch.randn(outputs, rank, generator=random), A=torch.randn(rank, inputs, generator=random))

    return core_space.build(
        [
            ParentAdapter.of("first", {"a": update(2), "b": update(3, 6, 9)}),
            ParentAdapter.of("second", {"a": update(2), "b": update(3, 6, 9), "alone": update(2)}),
            ParentAdapter.of("third", {"a": update(4), "b": update(1, 6, 9)}),
        ]
    )


def _check_reasons(preset: Preset) -> None:
    """Check that every value of the preset has a reason, and every reason a value."""
    parts = {"lora": preset.lora, "training": preset.training, "generation": preset.generation}
    values = {f"{name}.{field}" for name, part in parts.items() for field in part.model_fields_set} | {"system"}
    missing, unused = sorted(values - preset.reasons.keys()), sorted(preset.reasons.keys() - values)
    assert not missing, f"preset {preset.name!r} gives no reason for {', '.join(missing)}"
    assert not unused, f"preset {preset.name!r} gives a reason for {', '.join(unused)}, which it does not set"
    empty = sorted(name for name, reason in preset.reasons.items() if not reason.strip())
    assert not empty, f"preset {preset.name!r} gives an empty reason for {', '.join(empty)}"
