"""Generators: a base and its adapters, loaded in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.hub.adapters import Adapters
from finch_hub.hub.bases import load_base
from finch_hub.hub.evaluating import resolve_base_and_adapters
from finch_hub.hub.problems import ProblemCollector

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.storage.stores import Stores


def load_generator(
    base: str | Path | None, adapters: Sequence[str], *, device: str, progress: Callable[[str], None], stores: Stores
) -> GeneratorModel:
    """Load a base with adapters, none of them active; see `Hub.generator`."""
    collector = ProblemCollector("this generator")
    source, versions = resolve_base_and_adapters(base, adapters, stores, collector)
    for version in versions:
        for part, operations in Adapters(stores).limits(version.reference).items():
            if "generate" in operations:
                fix = "merge it into its base, and generate with the merged model"
                what = f"has {part}, which a generator does not support"
                collector.add(errors.Problem(where=version.reference, what=what, fix=fix))
    collector.raise_problems()

    from finch_hub.engine.inference.generator import GeneratorModel

    model = GeneratorModel(load_base(source, stores, device=device, progress=progress))
    for reference, version in zip(adapters, versions, strict=True):
        folder = stores.artifacts.fetch_tree(version.digest)
        spec = version.spec
        model.load_lora(folder, name=reference, system=spec.get("system"), thinking=bool(spec.get("thinking")))
    model.switch(None)
    return model
