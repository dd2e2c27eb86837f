"""Texts of bundles, which leave a hub and come into one without secrets."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from finch_hub import errors
from finch_hub.specs.bundles import BundledVersion, Manifest
from finch_hub.storage.redaction import Redactor

_TEXTS = ("card", "notes", "owner")
_DOCUMENTS = ("metrics", "environment")
_MAX_NAMED = 5  # places of a warning


def mask_secrets(manifest: Manifest, redactor: Redactor) -> Manifest:
    """Return a manifest whose texts have no secrets, and warn of the places that had one."""
    places: list[str] = []
    adapters = []
    for adapter in manifest.adapters:
        clean = redactor.clean(adapter.description)
        if clean != adapter.description:
            places.append(f"the description of {adapter.name}")
        adapters.append(adapter.model_copy(update={"description": clean}))
    versions = []
    for version in manifest.versions:
        changed = {name: value for name, value in _clean(version, redactor).items() if value != getattr(version, name)}
        places += [f"the {_name(name, changed[name], version)} of {version.reference}" for name in changed]
        versions.append(version.model_copy(update=changed))
    if places:
        more = f" and {len(places) - _MAX_NAMED:,} more texts" if len(places) > _MAX_NAMED else ""
        text = f"masked secrets in {', '.join(places[:_MAX_NAMED])}{more}"
        warnings.warn(errors.FinchWarning(text), stacklevel=2)
    return manifest.model_copy(update={"adapters": tuple(adapters), "versions": tuple(versions)})


def _clean(version: BundledVersion, redactor: Redactor) -> dict[str, Any]:
    """Return the fields of a version that have texts of people and plugins, without secrets."""
    evaluations = (e.model_copy(update={"metrics": redactor.clean_values(e.metrics)}) for e in version.evaluations)
    return {
        **{name: redactor.clean(getattr(version, name)) for name in _TEXTS},
        **{name: redactor.clean_values(getattr(version, name)) for name in _DOCUMENTS},
        "spec": redactor.clean_values(version.spec),
        "tags": tuple(_clean_tags(version.tags, redactor)),
        "evaluations": tuple(evaluations),
    }


def _clean_tags(tags: Iterable[str], redactor: Redactor) -> Iterable[str]:
    """Yield tags without secrets in their values. One whose name is a secret is left out."""
    for tag in tags:
        clean = redactor.clean(tag)
        if clean.partition("=")[0] == tag.partition("=")[0]:
            yield clean


def _name(field: str, value: Any, version: BundledVersion) -> str:
    if field == "spec":
        return "system prompt" if value.get("system") != version.spec.get("system") else "settings"
    return field
