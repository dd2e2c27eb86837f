"""Checks for plugin authors: does what a plugin offers keep the promises that Finch Hub relies on.

Each check raises AssertionError and says what is broken, so it can be called from any test framework::

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

# How each kind of target is called: positional arguments, then named ones.
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
    """Load a plugin beside the built-ins, check every descriptor of it, and return the catalog.

    Checked are: it registers, its hooks return descriptors of the right kind, no name clashes, presets give their
    reasons, and every target can be imported and accepts the call that will be made.
    """
    catalog = load_catalog(entry_points=False, extra=(plugin,))
    assert not catalog.problems, "\n".join(map(str, catalog.problems))
    mine = catalog.plugins[0].name
    for offers in catalog.all_offers():
        for name, descriptor in offers.items():
            if offers.plugin_of(name) == mine:
                check_descriptor(descriptor)
    return catalog


def check_descriptor(descriptor: Descriptor) -> None:
    """Check one descriptor: a preset's reasons, or that its target accepts the call that will be made."""
    if isinstance(descriptor, Preset):
        _check_reasons(descriptor)
    if not isinstance(descriptor, Runnable):
        return
    count, named = _CALLS[type(descriptor)]
    if isinstance(descriptor, Strategy) and descriptor.needs_data:
        named = (*named, "parent_data")
    try:
        inspect.signature(descriptor.load()).bind(*range(count), **dict.fromkeys(named))
    except errors.PluginError as error:
        raise AssertionError(str(error)) from error
    except TypeError as error:
        call = f"({count} arguments{''.join(f', {name}=' for name in named)})"
        raise AssertionError(f"{descriptor.target} cannot be called with {call}: {error}") from error


def check_strategy(strategy: Strategy, parameters: Mapping[str, Any] | None = None) -> None:
    """Run a strategy on random parents and check what holds for every one.

    It leaves its input alone; the same seed gives the same result; there is a finite result of the core's shape for
    every module; and a module that one parent alone adapts, at weight 1, comes out as it went in.
    """
    import torch

    from finch_hub.engine.composition.factors import Factors

    assert not strategy.needs_data, "a strategy that needs data is to be tested with real parent data"
    merge, values = strategy.load(), strategy.parse(parameters or {})
    core = example_core_space()
    before = [block.cores.clone() for block in core.blocks]
    weights = (1.0,) * len(core.parents)
    first, second = (merge(core, weights, values, seed=7) for _ in range(2))
    assert all(map(torch.equal, before, (block.cores for block in core.blocks))), "it changed its input"
    assert first.keys() == core.modules.keys(), "it must return one matrix for every module"
    for name, module in core.modules.items():
        if isinstance(first[name], Factors):  # an exact strategy's, which are written as they are
            assert bool(first[name].A.isfinite().all() and first[name].B.isfinite().all()), f"{name}: is not finite"
            continue
        assert first[name].shape == module.cores[0].shape, f"{name}: {first[name].shape}, not {module.cores[0].shape}"
        assert bool(first[name].isfinite().all()), f"{name}: is not finite"
        assert torch.equal(first[name], second[name]), f"{name}: differs from run to run at the same seed"
        if len(module.present) == 1:
            alone = module.cores[module.present[0]]
            assert torch.allclose(first[name], alone), f"{name}: what one parent alone adapts must come out as it is"


def check_resolver(resolver: Resolver, parameters: Mapping[str, Any] | None = None) -> None:
    """Run a resolver on random parents and check what holds for every one.

    It leaves its input alone, gives finite cores for the same parents and modules, and leaves a module that one parent
    alone adapts as it is; refusing (`errors.Incompatible`) is fine too.
    """
    import torch

    resolve, values = resolver.load(), resolver.parse(parameters or {})
    core = example_core_space()
    before = [block.cores.clone() for block in core.blocks]
    try:
        resolved: CoreSpace = resolve(core, values)
    except errors.Incompatible:
        return
    assert all(map(torch.equal, before, (block.cores for block in core.blocks))), "it changed its input"
    assert resolved.parents == core.parents, "it must keep the parents"
    assert resolved.modules.keys() == core.modules.keys(), "it must keep the modules"
    for name, module in core.modules.items():
        after = resolved.modules[name]
        assert all(bool(matrix.isfinite().all()) for matrix in after.cores), f"{name}: is not finite"
        if len(module.present) == 1:
            assert all(map(torch.equal, module.cores, after.cores)), f"{name}: has no conflict, and was changed"


def check_dataset_format(dataset_format: DatasetFormat, row: Mapping[str, Any]) -> Example:
    """Convert a good row and damaged ones; the latter must raise `errors.InvalidSpec` and nothing else."""
    assert dataset_format.recognizes <= row.keys(), f"the row has not all of {sorted(dataset_format.recognizes)}"
    convert = dataset_format.load()
    example = convert(row)
    assert isinstance(example, Example), f"it returned {type(example).__name__}, not an Example"
    wrong: tuple[Any, ...] = (None, 7, "", [], {}, [None], [{}])
    for field in dataset_format.recognizes:
        for damaged in wrong:
            try:
                convert({**row, field: damaged})
            except errors.InvalidSpec:
                continue
            except Exception as error:
                what = f"{field}={damaged!r} raised {type(error).__name__}: {error}; raise errors.InvalidSpec"
                raise AssertionError(what) from error
    return example


def example_core_space() -> CoreSpace:
    """Return the core space of three random parents of different ranks; one module is adapted by a single one."""
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
    """Check that every value the preset sets has its reason, and no reason is left over."""
    parts = {"lora": preset.lora, "training": preset.training, "generation": preset.generation}
    given = {f"{name}.{field}" for name, part in parts.items() for field in part.model_fields_set} | {"system"}
    missing, left_over = sorted(given - preset.reasons.keys()), sorted(preset.reasons.keys() - given)
    assert not missing, f"preset {preset.name!r} gives no reason for {', '.join(missing)}"
    assert not left_over, f"preset {preset.name!r} gives a reason for {', '.join(left_over)}, which it does not set"
    empty = sorted(name for name, reason in preset.reasons.items() if not reason.strip())
    assert not empty, f"preset {preset.name!r} gives an empty reason for {', '.join(empty)}"
