"""A base with adapters of it, as an evaluation or a generator asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.hub import composing, examples
from finch_hub.hub.problems import Findings
from finch_hub.specs.jobs import BaseModelSource, EvaluateSpec

if TYPE_CHECKING:
    from finch_hub.hub.bases import Bases
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores

_UNKNOWN = BaseModelSource(source="unknown")  # what stands there until somebody is told that there is none


def prepare(
    data: examples.Data,
    adapters: Sequence[str],
    *,
    base: str | Path | None,
    evaluator: str,
    parameters: dict[str, Any],
    system: str | None,
    format_name: str | None,
    stores: Stores,
    bases: Bases,
) -> tuple[EvaluateSpec, examples.Stored]:
    """Return the specification of an evaluation, and its data set, which is stored already.

    Raises:
        InvalidInput: with everything that is wrong with the request; nothing is stored then.
        NotFound: a name that was given does not exist.

    """
    findings = Findings("this evaluation")
    with findings.gather():
        stores.catalog.evaluators[evaluator].parse(parameters)
    source, versions = find(base, adapters, findings, stores=stores, bases=bases)
    read: tuple[Any, ...] = ()
    with findings.gather():
        read = examples.read(data, stores, format_name=format_name)
    findings.settle()
    trained_with = {version.spec.get("system") for version in versions}
    if system is None and len(trained_with) == 1:
        system = trained_with.pop()
    stored = examples.store(read, stores, format_name=format_name)
    spec = EvaluateSpec(
        base=source,
        adapters=tuple(version.reference for version in versions),
        dataset=stored.digest,
        evaluator=evaluator,
        parameters=parameters,
        system=system,
    )
    return spec, stored


def find(
    base: str | Path | None, adapters: Sequence[str], findings: Findings, *, stores: Stores, bases: Bases
) -> tuple[BaseModelSource, Sequence[AdapterVersion]]:
    """Return where the base comes from, that of the adapters unless one is named, and their versions.

    What is wrong is found, not raised: the base means nothing until the findings have been settled.
    """
    versions = composing.resolve(adapters, None, stores, findings)[1] if adapters else ()
    if base is not None:
        with findings.gather():
            source, _ = bases.resolve(base)
            _check_made_for(base, versions, findings, bases=bases)
            return source, versions
    elif versions:
        first = versions[0].base
        return BaseModelSource(source=first.source, revision=first.revision), versions
    elif not adapters:
        findings.add(errors.Problem(what="neither a base nor an adapter is named", fix="name one"))
    return _UNKNOWN, versions


def _check_made_for(base: str | Path, versions: Sequence[AdapterVersion], findings: Findings, *, bases: Bases) -> None:
    """Find adapters of another base than the registered one that is asked for, which they may fit by chance."""
    try:
        known = bases.get(str(base))
    except errors.NotFound:
        return
    for version in versions:
        if version.base.fingerprint != known.fingerprint:
            what = f"was made for {version.base.name}, not for {known.name}"
            findings.add(errors.Problem(where=version.reference, what=what))
