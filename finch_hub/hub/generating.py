"""Generators: a base and its adapters, loaded in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub.hub.bases import load_base
from finch_hub.hub.evaluating import resolve_base_and_adapters
from finch_hub.hub.problems import ProblemCollector

if TYPE_CHECKING:
    from finch_hub.engine.inference.generator import GeneratorModel
    from finch_hub.storage.stores import Stores


def load_generator(base: str | Path | None, adapters: Sequence[str], *, device: str, stores: Stores) -> GeneratorModel:
    """Load a base with adapters, none of them active; see `Hub.generator`."""
    collector = ProblemCollector("this generator")
    source, versions = resolve_base_and_adapters(base, adapters, stores, collector)
    collector.raise_problems()

    from finch_hub.engine.inference.generator import GeneratorModel

    model = GeneratorModel(load_base(source, stores, device=device))
    for reference, version in zip(adapters, versions, strict=True):
        folder = stores.artifacts.fetch_tree(version.digest)
        spec = version.spec
        model.load_lora(folder, name=reference, system=spec.get("system"), thinking=bool(spec.get("thinking")))
    model.switch(None)
    return model
