"""Requests for evaluations, and the base and adapters that they name."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.bases import sources
from finch_hub.engine.data.example_file import ExampleFile
from finch_hub.hub.bases import Bases
from finch_hub.hub.composing import resolve_adapters
from finch_hub.hub.examples import (
    DataSource,
    Progress,
    StoredExamples,
    check_system,
    complete_options,
    read_examples,
    store_examples,
)
from finch_hub.hub.problems import ProblemCollector
from finch_hub.registry import bases
from finch_hub.specs.jobs import BaseModelSource, EvaluateSpec
from finch_hub.specs.options import name_option
from finch_hub.specs.reports import ReadingReport

if TYPE_CHECKING:
    from finch_hub.registry.values import AdapterVersion, Base
    from finch_hub.specs.reading import ReadingOptions
    from finch_hub.storage.stores import Stores

_UNKNOWN = BaseModelSource(source="unknown")  # never used: a collected problem comes with it


def check_evaluation(
    data: DataSource,
    adapters: Sequence[str],
    *,
    base: str | Path | None,
    revision: str | None,
    evaluator: str,
    parameters: Mapping[str, object],
    system: str | None,
    options: ReadingOptions,
    progress: Progress | None,
    stores: Stores,
) -> tuple[EvaluateSpec, StoredExamples]:
    """Check a request for an evaluation, store its examples and return its specification; see `Hub.evaluate`."""
    collector = ProblemCollector("this evaluation")
    with collector.collect():
        stores.catalog.evaluators[evaluator].parse(parameters)
    with collector.collect():
        check_system(system)
    source, versions = resolve_base_and_adapters(base, adapters, stores, collector, revision=revision)
    made_of: set[str] = set()
    with ExampleFile() as examples:
        report = ReadingReport(rows=0)
        with collector.collect():
            config = complete_options(options, stores)
            report = read_examples(data, stores, config, examples.add, progress=progress, made_of=made_of)
        collector.raise_problems()
        stored = store_examples(examples, stores, report, made_of=made_of)
    system_prompts = {version.spec.get("system") for version in versions}
    if system is None and len(system_prompts) == 1:
        system = system_prompts.pop()
    spec = EvaluateSpec(
        base=source,
        adapters=tuple(version.reference for version in versions),
        dataset=stored.digest,
        evaluator=evaluator,
        parameters=dict(parameters),
        system=system,
    )
    return spec, stored


def resolve_base_and_adapters(
    base: str | Path | None,
    adapters: Sequence[str],
    stores: Stores,
    collector: ProblemCollector,
    *,
    revision: str | None = None,
) -> tuple[BaseModelSource, Sequence[AdapterVersion]]:
    """Return the source of the base and the versions of the adapters.

    Without `base`, the base of the adapters is taken. The result is valid only if no problems were collected.
    """
    versions = resolve_adapters(adapters, None, stores, collector)[1] if adapters else ()
    if base is not None:
        with collector.collect():
            source, _ = Bases(stores).resolve(base, revision)
            _check_made_for(_find_registered(base, source, revision, stores), versions, collector)
            return source, versions
    elif revision is not None:
        what, fix = "is given without a base", f"add {name_option('base')}"
        collector.add(errors.Problem(where="revision", what=what, fix=fix))
    elif versions:
        return sources.source_of(versions[0].base), versions
    elif not adapters:
        collector.add(errors.Problem(what="neither a base nor an adapter is given", fix="give one"))
    return _UNKNOWN, versions


def _check_made_for(registered: Base | None, versions: Sequence[AdapterVersion], collector: ProblemCollector) -> None:
    """Collect adapters that were made for another base, even one of the same shapes."""
    for version in versions:
        if registered is not None and version.base.fingerprint != registered.fingerprint:
            what = f"was made for {version.base.name}, not for {registered.name}"
            collector.add(errors.Problem(where=version.reference, what=what))


def _find_registered(base: str | Path, source: BaseModelSource, revision: str | None, stores: Stores) -> Base | None:
    with stores.database.read() as session, contextlib.suppress(errors.NotFound):
        if revision is None:
            return bases.get(session, str(base))
        return bases.find_source(session, source.source, revision)
    return None
