"""Manifests of bundles, read as if they came from anybody."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from finch_hub import errors
from finch_hub.formats.json_checks import UnusableTextError, parse_object
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.specs.annotations import Tag, check_description, check_notes
from finch_hub.specs.bundles import FORMAT, MAX_ALL_FORMER_NAMES, MAX_FORMER_NAMES, BundledVersion, Manifest
from finch_hub.specs.circles import find_circle
from finch_hub.specs.references import check_adapter_name, check_name
from finch_hub.specs.value import JsonObject

MAX_BYTES = 2**28
_MAX_SAMPLES = 2**23  # bytes of the sample answers of a version
_FILES = frozenset({CONFIG, WEIGHTS})
_FINGERPRINT = re.compile(r"([0-9]+:)?[0-9a-f]{60,64}")
_MAX_FIGURE = 1e300  # which no JSON reader and no database makes infinite
_FIGURES = ("loss_before", "loss_after", "mean_retention", "worst_retention", "relative_error")
_GROUPS = {"versions": "version", "adapters": "adapter", "bases": "base"}
_OBJECTS = ("lora", "training", "import")  # of a specification


def parse(data: bytes, *, subject: str) -> Manifest:
    """Return the manifest of a bundle.

    Raises:
        RefusedArtifact: with everything that is wrong with it.
        Incompatible: a newer version of Finch Hub made the bundle.
    """
    try:
        record = parse_object(data, parse_constant=_refuse_constant)
    except UnusableTextError as error:
        record = json.loads(data)
        problems = [_describe_unusable(place, record) for place in error.places]
        raise errors.RefusedArtifact(problems, subject=f"manifest of {subject}") from None
    except ValueError as error:
        raise errors.RefusedArtifact(f"its manifest cannot be read: {str(error)[:200]}", subject=subject) from None
    number = record.get("format")
    if isinstance(number, int) and number > FORMAT:
        what = f"has format {number}, and this code reads none above {FORMAT}: a newer Finch Hub made it"
        raise errors.Incompatible(what, where=subject, fix="update finch-hub on this machine")
    try:
        manifest = Manifest.of_stored(record)
    except errors.InvalidSpec as error:
        raise errors.RefusedArtifact(error.problems, subject=f"manifest of {subject}") from None
    if problems := list(find_problems(manifest)):
        raise errors.RefusedArtifact(problems, subject=f"manifest of {subject}")
    return manifest


def _describe_unusable(place: tuple[str | int, ...], record: JsonObject) -> errors.Problem:
    """Return the problem of a text, with the version, adapter or base that it belongs to."""
    where = ".".join(map(str, place))
    group, index, *fields = (*place, "", "")[: max(3, len(place))]
    entry = record[group][index] if group in _GROUPS and isinstance(index, int) else None
    if isinstance(entry, dict) and fields != ["name"]:
        name, number = entry.get("name"), entry.get("number")
        owner = f"{name}/{number}" if group == "versions" else name
        where = f"{_GROUPS[str(group)]} {errors.shorten(str(owner))}: {'.'.join(map(str, fields))}"
    return errors.Problem(where=where, what="has half of a surrogate pair")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it has the number {name}")


def find_problems(manifest: Manifest) -> Iterator[errors.Problem]:
    """Yield what is wrong with a manifest although its fields are valid."""
    versions = manifest.versions
    named = {version.reference for version in versions}
    described, known = {adapter.name for adapter in manifest.adapters}, {base.fingerprint for base in manifest.bases}
    yield from _find_repeated("adapter", (adapter.name for adapter in manifest.adapters))
    yield from _find_repeated("base", (base.fingerprint for base in manifest.bases))
    yield from _find_repeated("version", (version.reference for version in versions))
    yield from _find_repeated("birth", (f"{v.identity} at {v.created_at}" for v in versions))
    yield from _find_repeated("alias", (f"{v.name}@{alias}" for v in versions for alias in v.aliases))
    yield from _find_repeated("former name", (name for adapter in manifest.adapters for name in adapter.former_names))
    if sum(len(adapter.former_names) for adapter in manifest.adapters) > MAX_ALL_FORMER_NAMES:
        what = f"have more than {MAX_ALL_FORMER_NAMES:,} former names together"
        yield errors.Problem(where="adapters", what=what)
    for base in manifest.bases:
        if _FINGERPRINT.fullmatch(base.name) and base.name != base.fingerprint:
            yield errors.Problem(where=f"base {base.fingerprint}", what="its name is the fingerprint of another base")
    for adapter in manifest.adapters:
        where = f"adapter {errors.shorten(adapter.name)}"
        yield from _try(where, check_adapter_name, adapter.name)
        yield from _try(where, check_description, adapter.description)
        if len(adapter.former_names) > MAX_FORMER_NAMES:
            yield errors.Problem(where=where, what=f"has more than {MAX_FORMER_NAMES} former names")
        for name in adapter.former_names[:MAX_FORMER_NAMES]:
            yield from _try(f"{where}: former name", check_adapter_name, name)
    for version in versions:
        where = f"version {errors.shorten(version.reference)}"
        if version.name not in described:
            yield errors.Problem(where=where, what="its adapter is not in the bundle")
        if version.base not in known:
            yield errors.Problem(where=where, what="its base is not in the bundle")
        for parent in version.parents:
            if parent.reference not in named:
                yield errors.Problem(where=where, what=f"its parent {parent.reference} is not in the bundle")
        if version.files is not None and version.files.keys() != _FILES:
            yield errors.Problem(where=where, what=f"its files are not {' and '.join(sorted(_FILES))}")
        if version.files is None and version.samples is not None:
            yield errors.Problem(where=where, what="has sample answers without files")
        if version.samples is not None and version.samples.size > _MAX_SAMPLES:
            yield errors.Problem(where=where, what=f"its sample answers have more than {_MAX_SAMPLES:,} bytes")
        yield from _find_wrong_texts(where, version)
        yield from find_wrong_documents(where, version.spec, version.metrics)
    if circle := find_circle({v.reference: {parent.reference for parent in v.parents} for v in versions}):
        yield errors.Problem(where=f"version {min(circle)}", what="is its own ancestor")


def _find_repeated(kind: str, names: Iterable[str]) -> Iterator[errors.Problem]:
    for name, count in Counter(names).items():
        if count > 1:
            yield errors.Problem(where=f"{kind} {errors.shorten(name)}", what="is in it twice")


def _find_wrong_texts(where: str, version: BundledVersion) -> Iterator[errors.Problem]:
    yield from _try(where, check_notes, version.notes)
    if version.card_edited_at is not None and not version.card.strip():  # earlier hubs took longer ones than now
        yield errors.Problem(where=where, what="its edited card is empty")
    for alias in version.aliases:
        yield from _try(f"{where}: alias", check_name, alias)
    for tag in version.tags:
        yield from _try(f"{where}: tag", Tag.parse, tag)
    yield from _find_repeated(f"{where}: tag", (tag.partition("=")[0] for tag in version.tags))


def _try(where: str, check: Any, text: str) -> Iterator[errors.Problem]:
    try:
        check(text)
    except errors.InvalidInput as error:
        yield from (errors.Problem(where=where, what=problem.what) for problem in error.problems)


def find_wrong_documents(where: str, spec: JsonObject, metrics: JsonObject) -> Iterator[errors.Problem]:
    """Yield what would stop those who read the documents of a version."""
    for name in _OBJECTS:
        if not isinstance(spec.get(name, {}), dict):
            yield errors.Problem(where=f"{where}: spec.{name}", what="is not an object")
    for name in ("system", "preset", "validation"):
        if not isinstance(spec.get(name), str | None):
            yield errors.Problem(where=f"{where}: spec.{name}", what="is not a text")
    if isinstance(spec.get("preset"), str) and "\0" in spec["preset"]:
        yield errors.Problem(where=f"{where}: spec.preset", what="has the character NUL")
    if isinstance(spec.get("preset"), str) and len(spec["preset"]) > 96:
        yield errors.Problem(where=f"{where}: spec.preset", what="has more than 96 characters")
    if isinstance(spec.get("import"), dict):
        yield from _find_wrong_import(f"{where}: spec.import", spec["import"])
    figures = {name: metrics[name] for name in _FIGURES if name in metrics}
    if figures.get("mean_retention", 0) is None and figures.get("worst_retention") is None:
        figures = {name: value for name, value in figures.items() if "retention" not in name}
    elif "mean_retention" in figures and "worst_retention" not in figures:
        yield errors.Problem(where=f"{where}: metrics.worst_retention", what="is missing")
    for name, value in figures.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < _MAX_FIGURE:
            yield errors.Problem(where=f"{where}: metrics.{name}", what="is not a number")


def _find_wrong_import(where: str, record: JsonObject) -> Iterator[errors.Problem]:
    if not isinstance(record.get("ignored_fields", {}), dict):
        yield errors.Problem(where=f"{where}.ignored_fields", what="is not an object")
    for name in ("ignored_files", "notes"):
        texts = record.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            yield errors.Problem(where=f"{where}.{name}", what="is not a list of texts")
