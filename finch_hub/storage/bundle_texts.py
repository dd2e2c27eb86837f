"""Texts of bundles, which leave a hub and come into one without secrets."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from finch_hub import errors
from finch_hub.specs.bundles import BundledVersion, Manifest
from finch_hub.specs.evidence import Evidence
from finch_hub.storage.redaction import Redactor
from finch_hub.texts.secret_shapes import redact_values

_TEXTS = ("card", "notes", "owner")
_DOCUMENTS = ("metrics", "environment")
_MAX_NAMED = 5  # places of a warning


def mask_secrets(manifest: Manifest, redactor: Redactor) -> Manifest:
    """Return a manifest whose texts have no secrets, and warn of the places that had one."""
    clean_text = functools.lru_cache(maxsize=None)(redactor.clean)  # versions have many equal texts
    places: list[str] = []
    prompts: list[str] = []
    adapters = []
    for adapter in manifest.adapters:
        clean = clean_text(adapter.description)
        if clean != adapter.description:
            places.append(f"the description of {adapter.name}")
        adapters.append(adapter.model_copy(update={"description": clean}))
    versions = []
    for version in manifest.versions:
        cleaned = _clean(version, clean_text)
        changed = {name: value for name, value in cleaned.items() if value != getattr(version, name)}
        places += [f"the {'settings' if name == 'spec' else name} of {version.reference}" for name in changed]
        system = version.spec.get("system")
        if isinstance(system, str) and clean_text(system) != system:
            prompts.append(version.reference)
        versions.append(version.model_copy(update=changed))
    if places:
        more = f" and {len(places) - _MAX_NAMED:,} more" if len(places) > _MAX_NAMED else ""
        text = f"masked secrets in {', '.join(places[:_MAX_NAMED])}{more}"
        warnings.warn(errors.FinchWarning(text), stacklevel=2)
    if prompts:
        more = f" and {len(prompts) - _MAX_NAMED:,} more" if len(prompts) > _MAX_NAMED else ""
        named = f"{', '.join(prompts[:_MAX_NAMED])}{more}"
        text = f"what looks like a secret stays in the system prompt of {named}, since the adapter was trained with it"
        warnings.warn(errors.FinchWarning(text), stacklevel=2)
    return manifest.model_copy(update={"adapters": tuple(adapters), "versions": tuple(versions)})


def _clean(version: BundledVersion, clean: Callable[[str], str]) -> dict[str, Any]:
    """Return the fields of a version that have texts of people and plugins, without secrets.

    A system prompt stays: the adapter answers to it only as it was trained, and what looks like a secret may be none.
    """
    evaluations = (e.model_copy(update={"metrics": redact_values(e.metrics, clean)}) for e in version.evaluations)
    spec = redact_values(version.spec, clean)
    evidence = version.evidence
    return {
        **{name: clean(getattr(version, name)) for name in _TEXTS},
        **{name: redact_values(getattr(version, name), clean) for name in _DOCUMENTS},
        "spec": {**spec, "system": version.spec["system"]} if "system" in version.spec else spec,
        "tags": tuple(_clean_tags(version.tags, clean)),
        "evaluations": tuple(evaluations),
        "evidence": evidence and Evidence.of(redact_values(evidence.to_document(), clean)),
    }


def _clean_tags(tags: Iterable[str], clean_text: Callable[[str], str]) -> Iterable[str]:
    """Yield tags without secrets in their values. One whose name is a secret is left out."""
    for tag in tags:
        clean = clean_text(tag)
        if clean.partition("=")[0] == tag.partition("=")[0]:
            yield clean
