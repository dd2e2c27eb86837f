"""Plans of compositions: the conflicts between adapters, computed in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.data import reading
from finch_hub.hub.bases import load_base
from finch_hub.hub.composing import pair_with_weights, resolve_parents
from finch_hub.hub.problems import ProblemCollector
from finch_hub.specs.jobs import BaseModelSource, ComposeSpec

if TYPE_CHECKING:
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.specs.examples import Example
    from finch_hub.specs.reports import ConflictReport
    from finch_hub.storage.stores import Stores


def plan_composition(references: Sequence[str], *, probe: bool, stores: Stores) -> ConflictReport:
    """Compare adapters and report their conflicts; see `Hub.plan`."""
    collector = ProblemCollector("this plan")
    parents = pair_with_weights(references, None, collector)
    versions = resolve_parents(parents, stores, collector)
    collector.raise_problems()

    from finch_hub.engine.composition import planning
    from finch_hub.engine.composition.parents import ParentInput
    from finch_hub.plugins import trials

    base = None
    if probe:
        source = BaseModelSource(source=versions[0].base.source, revision=versions[0].base.revision)
        base = load_base(source, stores)
    inputs = [
        ParentInput(
            name=version.reference,
            folder=stores.artifacts.fetch_tree(version.digest),
            validation=_validation_examples(version, stores),
            system=version.spec.get("system"),
            base_fingerprint=version.base.fingerprint,
        )
        for version in versions
    ]
    spec = ComposeSpec(adapter="plan", parents=parents)
    return planning.plan(inputs, trials.make_trials(spec, stores.catalog), base=base)


def _validation_examples(version: AdapterVersion, stores: Stores) -> tuple[Example, ...]:
    """Return the version's validation examples, none if it has none or they were purged."""
    try:
        return reading.load_examples(stores.artifacts.get(version.lineage.validation_digest or ""))
    except errors.NotFound:
        return ()
