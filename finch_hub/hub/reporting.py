"""Reports of versions and jobs as files: what is known is gathered here, and drawn by `display`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.display import commands, page, report_page
from finch_hub.formats.atomic_writes import atomic_file, translate_write_errors
from finch_hub.formats.output_paths import find_output
from finch_hub.registry import adapter_versions, evidence, lineage
from finch_hub.specs.evidence import Evidence, curve_of_events
from finch_hub.specs.jobs import JobResult, JobSpec, JobState, TrainSpec
from finch_hub.specs.options import write_options
from finch_hub.storage.samples import read_samples_of
from finch_hub.workers.runs import kinds

if TYPE_CHECKING:
    from finch_hub.plugins.catalog import Catalog
    from finch_hub.plugins.descriptors import Preset
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.specs.events import Event
    from finch_hub.specs.jobs import Job
    from finch_hub.specs.value import JsonObject, Value
    from finch_hub.storage.stores import Stores

_BEGIN = 4096  # characters of a file in which its mark must be


def report_version(
    version: AdapterVersion, out: str | Path, stores: Stores, *, samples: bool = False, replace: bool = False
) -> Path:
    """Write the report of a version; see `Adapters.write_report`."""
    path = _check_output(out, replace=replace)
    return _write(_describe_version(version, stores, samples=samples), path, stores)


def report_job(
    job: Job, events: Sequence[Event], out: str | Path, stores: Stores, *, samples: bool = False, replace: bool = False
) -> Path:
    """Write the report of a job; see `JobHandle.write_report`."""
    path = _check_output(out, replace=replace)
    summary = {
        "job": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "reason": job.reason,
        "owner": job.owner or None,
        "created": job.created_at,
        "started": job.started_at,
        "ended": job.finished_at,
    }
    version = _find_version(job, stores)
    if version is not None:
        facts = _describe_version(version, stores, samples=samples, job=job)
        # State, kind and time of the version stand for those of the job.
        of_job = {"job": job.id, "owner": job.owner or None, "submitted": job.created_at, "ended": job.finished_at}
        facts = report_page.add_summary(facts, of_job)
        return _write(facts, path, stores)
    if samples:
        raise errors.Conflict(f"job {job.id} has made no version that has sample answers (leave samples out)")
    known, report = _read_report(job, events)
    facts = report_page.ReportFacts(
        title=f"Job {job.id} ({job.kind})",
        summary=summary,
        evidence=known,
        report=report,
        spec=job.spec,
        command=find_command(job.kind, job.spec, stores.catalog, job),
    )
    return _write(facts, path, stores)


def _describe_version(
    version: AdapterVersion, stores: Stores, *, samples: bool, job: Job | None = None
) -> report_page.ReportFacts:
    with stores.database.read() as session:
        known = evidence.find(session, version.reference)[0]
        graph = lineage.read_graph(session, version.reference, "ancestors")
        answers = read_samples_of(session, version.reference, stores) if samples else None
    return report_page.ReportFacts(
        title=f"Adapter {version.reference}",
        summary={
            "version": version.reference,
            "description": version.description or None,
            "state": version.state,
            "kind": version.kind,
            "base": f"{version.base.name} ({version.base.architecture})",
            "created": version.created_at,
            "aliases": version.aliases or None,
            "tags": version.tags or None,
            "notes": version.notes or None,
            "identity": version.identity,
        },
        evidence=known,
        samples=answers,
        lineage=graph,
        spec=version.spec,
        command=find_command(version.kind, version.spec, stores.catalog, job),
        has_job=version.kind in kinds.MODULES,
    )


def _find_version(job: Job, stores: Stores) -> AdapterVersion | None:
    """Return the version that a job made, None if it made none, or if the version was deleted."""
    if job.state is not JobState.SUCCEEDED or (adapter := JobResult.of_stored(job.result).adapter) is None:
        return None
    with contextlib.suppress(errors.NotFound), stores.database.read() as session:
        return adapter_versions.resolve(session, adapter)
    return None


def _read_report(job: Job, events: Sequence[Event]) -> tuple[Evidence | None, Value | None]:
    """Return the evidence of a job without a version, or the report of a kind that has no evidence."""
    curve = None
    with contextlib.suppress(errors.InvalidSpec):
        curve = curve_of_events((event.type, event.data) for event in events)
    if job.state is not JobState.SUCCEEDED:
        is_drawn = curve is not None and (curve.steps or curve.evaluated_steps)
        return (Evidence(kind=job.kind, curve=curve) if is_drawn else None), None
    stored = JobResult.of_stored(job.result).report
    if (known := Evidence.of_report(job.kind, stored, curve)) is not None:
        return known, None
    with contextlib.suppress(errors.InvalidSpec, errors.NotFound):
        return None, kinds.kind_of(job.kind).report.of_stored(stored)
    return None, None


def find_command(kind: str, stored: JsonObject, catalog: Catalog, job: Job | None = None) -> str | None:
    """Return the command that repeats a job, None if this version cannot read the job or has no words for it."""
    if job is not None and job.unreadable is not None:
        return None
    with contextlib.suppress(errors.FinchError):
        spec: JobSpec = kinds.kind_of(kind).spec_of(stored)
        return commands.write_command(spec, find_preset(spec, catalog), job=job)
    return None


def find_preset(spec: JobSpec, catalog: Catalog) -> Preset | None:
    """Return the preset of a training, None if it has none, or if it is not known here."""
    if isinstance(spec, TrainSpec) and spec.preset is not None:
        with contextlib.suppress(errors.FinchError):
            return catalog.presets[spec.preset]
    return None


def _check_output(out: str | Path, *, replace: bool) -> Path:
    """Return the path of a report that can be written.

    Raises:
        Conflict: there is something else, or a report that may not be replaced.
    """
    path = find_output(out)
    if not os.path.lexists(path):
        return path
    if not path.is_file() or page.MARK not in _read_begin(path):
        raise errors.Conflict(f"the path {path} exists and is not an earlier report (choose another path or delete it)")
    if not replace:
        fix = f"choose another path, or replace it: {write_options({'replace': True})}"
        raise errors.Conflict(f"the path {path} holds an earlier report ({fix})")
    return path


def _read_begin(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_BEGIN)


def _write(facts: report_page.ReportFacts, path: Path, stores: Stores) -> Path:
    text = page.write_page(report_page.make_page(facts), clean=stores.redactor.clean)
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path
