"""Comparisons of versions: their settings, data, metrics and environment, and their updates by module."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from finch_hub import errors
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.update_geometry import UpdateSpectrum
from finch_hub.registry import adapter_versions, evidence, values
from finch_hub.specs.comparisons import ComparedModule, ComparedValue, Comparison, Section, explain_other_data
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.references import AdapterReference
from finch_hub.specs.value import JsonObject
from finch_hub.texts.counts import format_count

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

MAX_VERSIONS = 50
# Fields of a specification that name what other sections have, or quote rows.
_ELSEWHERE = frozenset({"adapter", "base", "import", "kind", "parents", "reading", "train", "validation"})
_DATA = (
    "examples",
    "validation_examples",
    "tokens",
    "label_tokens",
    "length_mean",
    "duplicates",
    "overlap",
    "left_out",
)
_SECTIONS: tuple[Section, ...] = get_args(Section)


def compare(references: Sequence[str], stores: Stores, *, show_equal: bool, modules: bool) -> Comparison:
    """Compare versions; see `Adapters.compare`."""
    with stores.database.read() as session:
        versions = _resolve(session, references)
        found = [evidence.find(session, version.reference)[0] for version in versions]
    described = [_describe(version, known) for version, known in zip(versions, found, strict=True)]
    compared = list(_compare_values(described))
    shown = [value for value in compared if show_equal or not value.is_equal]
    remarks = [
        f"the evidence of {known.adapter} cannot be read (run `finch-hub fsck`)"
        if known.absence == "unreadable"
        else f"{known.adapter} has no evidence of its making"
        for known in found
        if known.absence is not None
    ]
    measured = [v for v in versions if "loss_after" in v.metrics and v.lineage.validation_digest is not None]
    if len({v.lineage.validation_digest for v in measured}) > 1:
        remarks.append(explain_other_data([v.reference for v in measured]))
    updates: list[ComparedModule] = []
    if modules:
        updates, more = _compare_modules(versions, stores)
        remarks += more
    return Comparison(
        versions=tuple(version.reference for version in versions),
        values=tuple(shown),
        equal=len(compared) - len(shown),
        modules=tuple(updates),
        remarks=tuple(remarks),
    )


def _resolve(session: Session, references: Sequence[str]) -> list[values.AdapterVersion]:
    parsed = [AdapterReference.parse(reference) for reference in references]
    if len(parsed) == 1 and parsed[0].version is None and parsed[0].alias is None:
        versions = list(adapter_versions.find(session, parsed[0].name, limit=MAX_VERSIONS + 1).versions[::-1])
        if len(versions) == 1:
            what = f"{versions[0].reference} is the only version of its adapter"
            raise errors.InvalidSpec(what, fix="name another version")
    else:
        versions = [
            adapter_versions.to_value(adapter_versions.get_row(session, one, deleted=one.version is not None))
            for one in parsed
        ]
    if len(versions) < 2:
        advice = "name two or more, or an adapter without a number for all its versions"
        raise errors.InvalidSpec("a comparison needs two versions", fix=advice)
    if len(versions) > MAX_VERSIONS:
        too_many = f"{len(versions)} versions cannot be compared at once: {MAX_VERSIONS} are the most"
        raise errors.InvalidSpec(too_many, fix="name those that matter")
    return versions


def _describe(version: values.AdapterVersion, known: Evidence) -> dict[Section, JsonObject]:
    """Return the values of a version by section and name."""
    lineage, data = version.lineage, known.data
    settings = {name: value for name, value in version.spec.items() if name not in _ELSEWHERE}
    digests = {"training": _shorten(lineage.train_digest), "held out": _shorten(lineage.validation_digest)}
    measured = {name: getattr(data, name) for name in _DATA} if data is not None else {}
    return {
        "version": {
            "kind": version.kind,
            "state": "deleted" if version.deleted_at else version.state,
            "base": f"{version.base.name} ({version.base.fingerprint[:12]})",
            "parents": [f"{parent.reference} x {parent.weight:g}" for parent in lineage.parents] or None,
            "identity": version.identity[:12],
        },
        "settings": dict(_flatten(settings)),
        "data": {**digests, **measured},
        "metrics": dict(_flatten(version.metrics)),
        "retention": {
            kept.parent: kept.status if kept.retention is None else kept.retention for kept in known.retention
        },
        "environment": dict(_flatten(lineage.environment)),
        "libraries": dict(lineage.versions),
    }


def _compare_values(described: Sequence[Mapping[Section, Mapping[str, Any]]]) -> Iterator[ComparedValue]:
    for section in _SECTIONS:
        names = dict.fromkeys(name for one in described for name in one[section])
        for name in names:
            yield ComparedValue(section=section, name=name, values=tuple(one[section].get(name) for one in described))


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values. Those within an object have its name before theirs."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shorten(digest: str | None) -> str | None:
    return digest and digest[:12]


def _compare_modules(
    versions: Sequence[values.AdapterVersion], stores: Stores
) -> tuple[list[ComparedModule], list[str]]:
    """Return the updates of all modules together and of each, and what was not compared."""
    remarks: list[str] = []
    if len({version.base.fingerprint for version in versions}) > 1:
        remarks.append("the versions have different bases: modules of equal name and shape are compared")
    with contextlib.ExitStack() as stack:
        adapters = [_open_adapter(version, stores, stack, remarks) for version in versions]
        paths = sorted({path for adapter in adapters if adapter is not None for path in adapter.modules}, key=_order)
        total, modules = _Total(len(adapters)), []
        for path in paths:  # one module is in memory
            updates = [_read_update(adapter, path) for adapter in adapters]
            modules.append(total.add(path, updates))
    if total.num_misfits:
        remarks.append(f"only norms are compared of {format_count(total.num_misfits, 'module')}, since shapes differ")
    return [*([total.to_module()] if modules else []), *modules], remarks


def _open_adapter(
    version: values.AdapterVersion, stores: Stores, stack: contextlib.ExitStack, remarks: list[str]
) -> StoredAdapter | None:
    """Return the open files of a version, None with a remark if they cannot be read."""
    try:
        adapter = stack.enter_context(StoredAdapter(stores.artifacts.fetch_tree(version.digest)))
    except (errors.NotFound, errors.InvalidInput) as error:
        remarks.append(f"the modules of {version.reference} are not compared: {error}")
        return None
    if beyond := sorted(part for part, names in adapter.beyond_low_rank().items() if names):
        remarks.append(f"of {version.reference}, only low-rank updates are compared, without: {', '.join(beyond)}")
    return adapter


def _order(path: str) -> list[tuple[int, str]]:
    """Return a key by which layer 10 follows on layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _read_update(adapter: StoredAdapter | None, path: str) -> UpdateSpectrum | None:
    if adapter is None or path not in adapter.modules:
        return None
    A, B = adapter.factors(path)
    return UpdateSpectrum.of(A, B, adapter.modules[path].scale)


class _Total:
    """Sums over the modules of some versions, of which the first is compared with the others.

    Attributes:
        num_misfits: number of modules whose shapes differ.
    """

    def __init__(self, count: int) -> None:
        self._energies = [0.0] * count
        self._inner: list[float | None] = [None] * count  # None without a module that can be compared
        self.num_misfits = 0

    def add(self, path: str, updates: Sequence[UpdateSpectrum | None]) -> ComparedModule:
        """Add the updates of a module, and return their comparison."""
        first = updates[0]
        norms = [None if update is None else update.norm for update in updates]
        cosines: list[float | None] = [None] * len(updates)
        outputs, inputs = cosines.copy(), cosines.copy()
        for place, update in enumerate(updates):
            if update is None:
                continue
            self._energies[place] += update.norm**2
            if place and first is not None and update.shape == first.shape:
                inner = first.inner(update)
                self._inner[place] = (self._inner[place] or 0.0) + inner
                cosines[place] = _to_cosine(inner, first.norm, update.norm)
                outputs[place], inputs[place] = first.output_overlap(update), first.input_overlap(update)
        self.num_misfits += len({update.shape for update in updates if update is not None}) > 1
        return ComparedModule(
            module=path,
            norms=tuple(norms),
            cosines=tuple(cosines),
            output_overlaps=tuple(outputs),
            input_overlaps=tuple(inputs),
        )

    def to_module(self) -> ComparedModule:
        """Return the comparison of all modules together."""
        norms = [math.sqrt(energy) for energy in self._energies]
        cosines = [_to_cosine(inner, norms[0], norm) for inner, norm in zip(self._inner, norms, strict=True)]
        return ComparedModule(module="", norms=tuple(norms), cosines=tuple(cosines))


def _to_cosine(inner: float | None, first: float, second: float) -> float | None:
    return max(-1.0, min(1.0, inner / (first * second))) if inner is not None and first and second else None
