"""From what a user asks of a composition or a merge to its specification; torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.engine.data import reading
from finch_hub.formats import peft_config
from finch_hub.hub.problems import Findings
from finch_hub.plugins import trials
from finch_hub.registry import adapters, jobs, values
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import ComposeSpec, Parent
from finch_hub.specs.references import AdapterReference, check_name

if TYPE_CHECKING:
    from finch_hub.engine.composition.compatibility import ParentInput
    from finch_hub.storage.stores import Stores


def parents_of(references: Sequence[str], weights: Sequence[float] | None, findings: Findings) -> tuple[Parent, ...]:
    """Pair adapters with their weights; without weights each counts once."""
    shares = list(weights) if weights is not None else [1.0] * len(references)
    if len(shares) != len(references):
        what = f"{len(shares)} given for {len(references)} adapters"
        findings.add(errors.Problem(where="weights", what=what, fix="give one for each adapter, in their order"))
        shares = [1.0] * len(references)  # so that the adapters themselves are looked at
    if not references:
        findings.add(errors.Problem(where="adapters", what="none is named", fix="name at least one"))
    found = []
    for reference, weight in zip(references, shares, strict=True):
        if not math.isfinite(weight):
            findings.add(errors.Problem(where=f"weight of {reference}", what=f"{weight} is not a finite number"))
            continue
        with findings.gather():
            found.append(Parent(adapter=reference, weight=weight))
    return tuple(found)


def find_parents(
    parents: Sequence[Parent], stores: Stores, findings: Findings, *, coming: Container[str | None] = ()
) -> tuple[values.AdapterVersion, ...]:
    """Return the parents' versions, those aside whose adapter is still `coming`: made by a job that is waited for."""
    found: list[values.AdapterVersion] = []
    with stores.database.read() as session:
        for parent in parents:
            if AdapterReference.parse(parent.adapter).name not in coming:
                with findings.gather():
                    found.append(adapters.resolve(session, parent.adapter))
    return tuple(found)


def check_together(versions: Sequence[values.AdapterVersion], findings: Findings) -> None:
    """Find versions of different bases, and one version under two names."""
    if len({version.base.fingerprint for version in versions}) > 1:
        problems = [errors.Problem(where=v.reference, what=f"was made for {v.base.name}") for v in versions]
        with findings.gather():
            raise errors.Incompatible(problems, subject="adapters of different bases cannot be combined")
    references = [version.reference for version in versions]
    for twice in sorted({reference for reference in references if references.count(reference) > 1}):
        fix = "name it once, with a larger weight"
        findings.add(errors.Problem(where="adapters", what=f"{twice} is named twice", fix=fix))


def check_plain(versions: Sequence[values.AdapterVersion], stores: Stores, findings: Findings) -> None:
    """Find versions with parts that no composition can carry, by their configurations alone."""
    problems = []
    for version in versions:
        try:
            entry = stores.artifacts.tree(version.digest)[peft_config.NAME]
            config = json.loads(stores.artifacts.get(entry.digest))
        except errors.NotFound:
            continue  # the job says what is missing
        problems += [
            errors.Problem(where=version.reference, what=found.what, fix=found.fix)
            for found in peft_config.beyond_low_rank(config)
        ]
    if problems:
        with findings.gather():
            raise errors.Incompatible(problems, subject="these adapters cannot be composed")


def resolve(
    references: Sequence[str], weights: Sequence[float] | None, stores: Stores, findings: Findings
) -> tuple[tuple[Parent, ...], tuple[values.AdapterVersion, ...]]:
    """Return adapters that can be used together, and the versions that they mean now."""
    parents = parents_of(references, weights, findings)
    versions = find_parents(parents, stores, findings)
    check_together(versions, findings)
    return parents, versions


def inputs_of(versions: Sequence[values.AdapterVersion], stores: Stores) -> list[ParentInput]:
    """Return what the engine composes, with the examples that each version was held against where they still exist."""
    from finch_hub.engine.composition.compatibility import ParentInput

    return [
        ParentInput(
            name=version.reference,
            folder=stores.artifacts.fetch_tree(version.digest),
            validation=_held_out(version, stores),
            system=version.spec.get("system"),
            base_fingerprint=version.base.fingerprint,
        )
        for version in versions
    ]


def _held_out(version: values.AdapterVersion, stores: Stores) -> tuple[Example, ...]:
    try:
        return reading.load_examples(stores.artifacts.get(version.lineage.validation_digest or ""))
    except errors.NotFound:
        return ()


def prepare(
    references: Sequence[str],
    *,
    adapter: str,
    weights: Sequence[float] | None,
    depends_on: Sequence[str],
    stores: Stores,
    options: dict[str, Any],
) -> ComposeSpec:
    """Check the request and return its specification.

    Raises:
        InvalidInput: with everything that is wrong.
        NotFound: where one thing that was named is missing, and nothing else is wrong.

    """
    findings = Findings("this composition")
    parents = parents_of(references, weights, findings)
    with stores.database.read() as session:
        coming = {getattr(jobs.get(session, job_id).spec, "adapter", None) for job_id in depends_on}
    versions = find_parents(parents, stores, findings, coming=coming)
    check_together(versions, findings)
    check_plain(versions, stores, findings)
    # Placeholders keep the checks of the other fields going where a name or the parents were refused already.
    name = "refused"
    with findings.gather():
        name = check_name(adapter)
    spec: ComposeSpec | None = None
    with findings.gather():
        spec = ComposeSpec(adapter=name, parents=parents or (Parent(adapter="refused"),), **options)
    if spec is not None:
        for check in (trials.check_strategy, trials.check_resolver):
            with findings.gather():
                check(spec, stores.catalog)
        ranks = [int(version.metrics.get("rank", 0)) for version in versions]
        known = ranks and len(versions) == len(references) and all(ranks)
        if known and isinstance(spec.rank, int) and spec.rank > sum(ranks):
            fix = f"ask for {sum(ranks)} at most; more would be zeros"
            findings.add(errors.Problem(where="rank", what=f"{spec.rank} exceeds the parents' ranks together", fix=fix))
    findings.settle()
    return spec
