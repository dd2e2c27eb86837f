"""Compositions: requests, checked without torch, and plans, computed in this process."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.engine.bases import sources
from finch_hub.engine.data import data_files
from finch_hub.formats import peft_config, peft_names
from finch_hub.formats.atomic_writes import scratch_folder, temporary_place
from finch_hub.hub.bases import load_base
from finch_hub.hub.problems import ProblemCollector
from finch_hub.plugins import trials
from finch_hub.registry import adapter_names, adapter_versions, jobs, values
from finch_hub.specs.jobs import ComposeOptions, ComposeSpec, Parent
from finch_hub.specs.reading import DataWarning
from finch_hub.specs.references import AdapterReference
from finch_hub.storage.shared_rows import find_shared_rows
from finch_hub.texts.counts import format_count
from finch_hub.workers.runs import inputs

if TYPE_CHECKING:
    from finch_hub.specs.examples import Example
    from finch_hub.specs.reports import ConflictReport
    from finch_hub.storage.stores import Stores


def check_composition(
    references: Sequence[str],
    *,
    adapter: str,
    weights: Sequence[float] | None,
    depends_on: Sequence[str],
    stores: Stores,
    options: ComposeOptions,
) -> ComposeSpec:
    """Check a request for a composition and return its specification; see `Hub.compose`."""
    collector = ProblemCollector("this composition")
    parents = _pair_with_weights(references, weights, collector)
    with stores.database.read() as session:
        pending = {jobs.get(session, job_id).spec.get("adapter") for job_id in depends_on}
    versions = _resolve_parents(parents, stores, collector, pending=pending)
    _check_combinable(versions, collector)
    _check_low_rank(versions, stores, collector)
    # A placeholder stands in for a refused name or parent, so that the other fields are checked too.
    name = "refused"
    with collector.collect():
        with stores.database.read() as session:
            adapter_names.check_free(session, adapter)
        name = adapter
    spec: ComposeSpec | None = None
    with collector.collect():
        prompts = {"system": _common(versions, "system"), "thinking": bool(_common(versions, "thinking"))}
        spec = ComposeSpec(adapter=name, parents=parents or (Parent(adapter="refused"),), **{**prompts, **options})
    if spec is not None:
        for check in (trials.check_strategy, trials.check_resolver):
            with collector.collect():
                check(spec, stores.catalog)
        ranks = [int(version.metrics.get("rank", 0)) for version in versions]
        is_known = bool(ranks) and len(versions) == len(references) and all(ranks)
        if is_known and isinstance(spec.rank, int) and spec.rank > sum(ranks):
            what = f"{spec.rank} exceeds the sum of the adapters' ranks"
            fix = f"use {sum(ranks)} or less; a higher rank adds only zeros"
            collector.add(errors.Problem(where="rank", what=what, fix=fix))
    collector.raise_problems()
    _warn_of_parents(versions, stores)
    return spec


def _common(versions: Sequence[values.AdapterVersion], field: str) -> Any:
    """Return the field of the specifications of all versions, None if they differ."""
    found = {version.spec.get(field) for version in versions}
    return found.pop() if len(found) == 1 else None


def plan_composition(references: Sequence[str], *, probe: bool, stores: Stores) -> ConflictReport:
    """Compare adapters and report their conflicts; see `Hub.plan`."""
    collector = ProblemCollector("this plan")
    parents = _pair_with_weights(references, None, collector)
    versions = _resolve_parents(parents, stores, collector)
    collector.raise_problems()
    _warn_of_parents(versions, stores)

    from finch_hub.engine.composition import planning
    from finch_hub.engine.composition.parents import ParentInput

    base = load_base(sources.source_of(versions[0].base), stores) if probe else None
    with scratch_folder(temporary_place()) as folder:
        adapters = [
            ParentInput(
                name=version.reference,
                folder=stores.artifacts.fetch_tree(version.digest),
                validation=_fetch_validation(version, folder / str(number), stores) if probe else (),
                system=version.spec.get("system"),
                base_fingerprint=version.base.fingerprint,
            )
            for number, version in enumerate(versions)
        ]
        spec = ComposeSpec(adapter="plan", parents=parents)
        return planning.plan(adapters, trials.make_trials(spec, stores.catalog), base=base)


def _fetch_validation(version: values.AdapterVersion, file: Path, stores: Stores) -> Sequence[Example]:
    with data_files.translate_write_errors():
        return inputs.read_examples(inputs.fetch_validation(version, file, stores))


def resolve_adapters(
    references: Sequence[str], weights: Sequence[float] | None, stores: Stores, collector: ProblemCollector
) -> tuple[tuple[Parent, ...], tuple[values.AdapterVersion, ...]]:
    """Return the adapters with their weights and current versions, and collect why they cannot be combined."""
    parents = _pair_with_weights(references, weights, collector)
    versions = _resolve_parents(parents, stores, collector)
    _check_combinable(versions, collector)
    return parents, versions


def _pair_with_weights(
    references: Sequence[str], weights: Sequence[float] | None, collector: ProblemCollector
) -> tuple[Parent, ...]:
    """Pair adapters with their weights, which default to 1."""
    factors = list(weights) if weights is not None else [1.0] * len(references)
    if len(factors) != len(references):
        what = f"{len(factors)} given for {format_count(len(references), 'adapter')}"
        collector.add(errors.Problem(where="weights", what=what, fix="give one weight per adapter, in the same order"))
        factors = [1.0] * len(references)  # so that the adapters themselves are checked too
    if not references:
        collector.add(errors.Problem(where="adapters", what="none is given", fix="give at least one"))
    parents = []
    for reference, weight in zip(references, factors, strict=True):
        if not math.isfinite(weight):
            collector.add(errors.Problem(where=f"weight of {reference}", what=f"{weight} is not a finite number"))
            continue
        with collector.collect():
            parents.append(Parent(adapter=reference, weight=weight))
    return tuple(parents)


def _resolve_parents(
    parents: Sequence[Parent], stores: Stores, collector: ProblemCollector, *, pending: Container[str | None] = ()
) -> tuple[values.AdapterVersion, ...]:
    """Return the current versions of the parents, without those of `pending` adapters, which a job is still making."""
    versions: list[values.AdapterVersion] = []
    with stores.database.read() as session:
        for parent in parents:
            if AdapterReference.parse(parent.adapter).name not in pending:
                with collector.collect():
                    versions.append(adapter_versions.resolve_usable(session, parent.adapter))
    return tuple(versions)


def _check_combinable(versions: Sequence[values.AdapterVersion], collector: ProblemCollector) -> None:
    """Collect different bases, and versions that are given twice."""
    if len({version.base.fingerprint for version in versions}) > 1:
        problems = [errors.Problem(where=v.reference, what=f"was made for {v.base.name}") for v in versions]
        collector.add(errors.Incompatible(problems, subject="adapters of different bases cannot be combined"))
    references = [version.reference for version in versions]
    for reference in sorted({reference for reference in references if references.count(reference) > 1}):
        fix = "give it once, with a larger weight"
        collector.add(errors.Problem(where="adapters", what=f"{reference} is given twice", fix=fix))


def _check_low_rank(versions: Sequence[values.AdapterVersion], stores: Stores, collector: ProblemCollector) -> None:
    """Collect parts that no composition can carry. Only the versions' configurations are read."""
    problems = []
    for version in versions:
        try:
            entry = stores.artifacts.tree(version.digest)[peft_names.CONFIG]
            config = json.loads(stores.artifacts.get(entry.digest))
        except errors.NotFound:
            continue  # the job reports missing files
        problems += [
            errors.Problem(where=version.reference, what=problem.what, fix=problem.fix)
            for problem in peft_config.beyond_low_rank(config)
        ]
    if problems:
        collector.add(errors.Incompatible(problems, subject="these adapters cannot be composed"))


def _warn_of_parents(versions: Sequence[values.AdapterVersion], stores: Stores) -> None:
    for sentence in (*_find_equal(versions), *find_shared_rows(versions, stores)):
        warnings.warn(sentence, DataWarning, stacklevel=3)


def _find_equal(versions: Sequence[values.AdapterVersion]) -> list[str]:
    """Return a sentence for each group of versions with the same bytes."""
    groups: dict[str, set[str]] = {}
    for version in versions:
        groups.setdefault(version.identity, set()).add(version.reference)
    return [
        f"{' and '.join(sorted(group))} are the same adapter (leave one out)"
        for group in groups.values()
        if len(group) > 1
    ]
