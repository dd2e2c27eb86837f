"""Drawings of adapter versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finch_hub.display.evidence import summarize_evidence
from finch_hub.display.tables import Lines, draw_fields, format_value

if TYPE_CHECKING:
    from rich.table import Table

    from finch_hub.registry.values import AdapterVersion, Evaluation
    from finch_hub.specs.evidence import Evidence

_SHOWN = 12  # files that an import left out
# Fields of a specification that are shown on lines of their own, or name what the lineage has.
_SHOWN_ELSEWHERE = frozenset({
    "adapter", "base", "bundle", "dataset", "import", "kind", "parents", "reading", "seed", "system", "thinking",
    "train",
})  # fmt: skip


def draw_version(
    version: AdapterVersion,
    folder: str,
    evaluations: Sequence[Evaluation],
    limits: Mapping[str, Sequence[str]],
    evidence: Evidence,
    datasets: Sequence[str] = (),
) -> Table:
    """Draw one version with its lineage, metrics and evaluations.

    Args:
        datasets: names of the data sets that it was trained on.
    """
    lineage = version.lineage
    named = f"{', '.join(datasets)}: " if datasets else ""
    data = f"{named}{(lineage.train_digest or '')[:12]}, held out {(lineage.validation_digest or '-')[:12]}"
    return draw_fields(
        {
            "version": version.reference,
            "description": Lines.of(version.description or None),
            "state": version.state,
            "kind": f"{version.kind}{f', job {version.job_id}' if version.job_id else ''}",
            "created": version.created_at,
            "changed": version.updated_at if version.updated_at != version.created_at else None,
            "owner": version.owner or None,
            "came from": _format_hub(version.spec.get("bundle")),
            "base": f"{version.base.name} ({version.base.architecture}, {version.base.fingerprint[:12]})",
            "parents": [f"{parent.reference} x {parent.weight:g}" for parent in lineage.parents] or None,
            "pulled from": format_pulled(version) or None,
            "data": data if lineage.train_digest else None,
            "system prompt": Lines.of(version.spec.get("system")),
            "reasoning": "prompts ask for it" if version.spec.get("thinking") else None,
            "settings": _format_settings(version.spec) or None,
            "seed": lineage.seed,
            "aliases": version.aliases or None,
            "tags": version.tags or None,
            "notes": Lines.of(version.notes or None),
            "card edited": version.card_edited_at,
            "limits": Lines(_format_limits(limits)) or None,
            "imported": Lines(_format_origin(version)) or None,
            "metrics": _format_metrics(version.metrics),
            "evidence": summarize_evidence(evidence) or None,
            "evaluations": Lines(f"{e.evaluator} {_format_metrics(e.metrics)}" for e in evaluations) or None,
            "identity": version.identity,
            "folder": folder,
        }
    )


def format_import(version: AdapterVersion, limits: Mapping[str, Sequence[str]]) -> list[str]:
    """Format what an import left out, changed and found, and what cannot use the adapter, a line each."""
    parents = ", ".join(parent.reference for parent in version.lineage.parents)
    known = [f"It is the same adapter as {parents}"] if parents else []
    return [*known, *_format_origin(version), *(f"It has {line}" for line in _format_limits(limits))]


def format_pulled(version: AdapterVersion) -> str:
    """Format the repository and the commit that a version came from, nothing if it was not pulled."""
    origin = version.lineage.environment.get("pulled")
    if not isinstance(origin, dict):
        return ""
    return f"{origin.get('repository')}@{origin.get('revision')}, commit {origin.get('commit')}"


def format_deletion(version: AdapterVersion) -> str | None:
    """Format whether a version is deleted, purged or without files, None if it is there."""
    if version.purged_at is not None:
        return "purged"
    if version.never_had_files:
        return "without files"
    return "deleted" if version.deleted_at is not None else None


def format_evidence(metrics: Mapping[str, Any]) -> str:
    """Format the measurement that tells most about a version, which depends on its kind."""
    if "loss_before" in metrics and "loss_after" in metrics:
        return f"loss {metrics['loss_before']:.3f} -> {metrics['loss_after']:.3f}"
    if metrics.get("mean_retention") is not None:
        return f"retention {metrics['mean_retention']:.3f}, worst {metrics['worst_retention']:.3f}"
    if "relative_error" in metrics:
        return f"{metrics.get('scheme')}, error {metrics['relative_error']:.2%}"
    return "-"


def _format_hub(origin: object) -> str | None:
    """Format the hub that made a version which came with a bundle."""
    if not isinstance(origin, dict):
        return None
    return f"a bundle: {origin.get('reference')}, {origin.get('state')}, of hub {origin.get('hub')}"


def _format_limits(limits: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{part}, so it cannot be used by: {', '.join(operations)}" for part, operations in limits.items()]


def _format_settings(spec: Mapping[str, Any]) -> str:
    """Format the settings of the job that made a version, without those that are off or empty."""
    settings = {name: value for name, value in spec.items() if name not in ("lora", "training", "validation")}
    settings |= {**spec.get("lora", {}), **spec.get("training", {})}
    return ", ".join(
        f"{name} {format_value(value)}"
        for name, value in settings.items()
        if name not in _SHOWN_ELSEWHERE and not (value is None or value is False or value in ([], {}, ()))
    )


def _format_origin(version: AdapterVersion) -> list[str]:
    found = version.spec.get("import") or {}
    fields = [f"{name} ({format_value(value)})" for name, value in found.get("ignored_fields", {}).items()]
    lines = [f"Ignored fields of its config: {', '.join(fields)}"] if fields else []
    files: list[str] = found.get("ignored_files", [])
    if files:
        more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
        lines.append(f"Ignored files beside it: {', '.join(files[:_SHOWN])}{more}")
    return [*lines, *(f"Changed: {note}" for note in found.get("notes", []))]


def _format_metrics(metrics: Mapping[str, Any]) -> str:
    single = {name: value for name, value in metrics.items() if not isinstance(value, dict | list | None)}
    return ", ".join(f"{name} {format_value(value)}" for name, value in single.items())
