"""`finch-hub doctor`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import platform
import shutil
import tempfile
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING

import click

from finch_hub import errors
from finch_hub.cli import output
from finch_hub.display import tables
from finch_hub.storage.redaction import redact_url

if TYPE_CHECKING:
    from finch_hub.settings import Settings

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "celery", "sqlalchemy", "pydantic")
LEAST_FREE_BYTES = 2 * 10**9  # room for a converted base of 135 million parameters and several adapters
_SHOWN_JOBS = 5
LEAST_MEMORY_BYTES = 4 * 10**9


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report. It has advice if there is a problem."""

    about: str
    found: str
    advice: str = ""


@click.command()
@click.option("--fast", is_flag=True, help="Skip the checks that need torch, which takes seconds to import.")
@output.json_option
def doctor(fast: bool, as_json: bool) -> int:
    """Check this machine and report problems.

    It exits with 0 if there are no problems, else with 7.
    """
    findings = check_machine(torch=not fast)
    rows = [(finding.about, finding.found, finding.advice) for finding in findings]
    output.emit(findings, as_json, lambda: tables.draw_table(("check", "found", "advice"), rows))
    return output.UNAVAILABLE if any(finding.advice for finding in findings) else 0


def check_machine(*, torch: bool) -> list[Finding]:
    """Run all checks. A failed check becomes a finding with advice."""
    from finch_hub import settings

    findings = [_machine(), _python(), *_devices()]
    if torch:
        findings.append(_precision())
    try:
        current = settings.load()
    except errors.FinchError as error:
        return [*findings, Finding(about="settings", found="cannot be read", advice=str(error))]
    findings += [_settings(current), _home(current)]
    checks = {
        "database": _database,
        "artifacts": _artifacts,
        "broker": _broker,
        "workers": _workers,
        "queue": _queue,
        "plugins": _plugins,
        "listeners": _listeners,
    }
    for about, check in checks.items():
        try:
            findings.append(check(current))
        except (errors.FinchError, OSError) as error:
            findings.append(Finding(about=about, found="unusable", advice=str(error)))
    return findings


def _machine() -> Finding:
    from finch_hub.engine.machine import container

    memory, cores = container.measure_main_memory(), container.count_physical_cores()
    found = f"{platform.system()} {platform.machine()}, {cores} cores, {tables.format_bytes(memory)} memory"
    advice = "add memory: training needs several gigabytes even for a small base" if memory < LEAST_MEMORY_BYTES else ""
    return Finding(about="machine", found=found, advice=advice)


def _python() -> Finding:
    versions, missing = [f"Python {platform.python_version()}"], []
    for name in ("finch-hub", *LIBRARIES):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    advice = f"install {', '.join(missing)}" if missing else ""
    return Finding(about="versions", found=", ".join(versions), advice=advice)


def _devices() -> list[Finding]:
    from finch_hub.workers.supervision import devices

    findings = []
    for device in devices.find_devices():
        found = f"{device.name}, {tables.format_free(device.free_bytes, device.memory_bytes)}"
        findings.append(Finding(about=f"device {device.kind}:{device.index}", found=found))
    return findings


def _precision() -> Finding:
    from finch_hub.engine.bases import precision

    pays = precision.is_bfloat16_faster(cache=None)
    faster, slower = ("bfloat16", "float32") if pays else ("float32", "bfloat16")
    return Finding(about="precision", found=f"bases run in {faster}, which is faster than {slower} on this CPU")


def _settings(settings: Settings) -> Finding:
    shown = []
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        secret = getattr(value, "get_secret_value", None)
        shown.append(f"{name}={redact_url(str(secret() if secret else value))}")
    return Finding(about="settings", found=", ".join(shown) or "defaults")


def _home(settings: Settings) -> Finding:
    existing = settings.home
    while not existing.exists():
        existing = existing.parent
    try:
        tempfile.TemporaryFile(dir=existing).close()  # permission bits alone are unreliable on some file systems
        free = shutil.disk_usage(existing).free
    except OSError as error:
        advice = f"cannot write to {existing}: {error.strerror} (set FINCH_HOME to a writable folder)"
        return Finding(about="home", found=str(settings.home), advice=advice)
    found = f"{settings.home}, {tables.format_bytes(free)} free"
    advice = "free some space or set FINCH_HOME to a larger disk" if free < LEAST_FREE_BYTES else ""
    return Finding(about="home", found=found, advice=advice)


def _database(settings: Settings) -> Finding:
    from finch_hub.registry.database import Database

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        return Finding(about="database", found="SQLite in the home, created on first use")
    with contextlib.closing(Database(settings.database, allow_insecure=settings.allow_insecure)) as database:
        revision = database.revision()
        if settings.database_url is not None or revision is not None:
            database.check()
    return Finding(about="database", found=f"{database}, schema {revision or 'not created yet'}")


def _artifacts(settings: Settings) -> Finding:
    from finch_hub.artifacts.store import ArtifactStore
    from finch_hub.storage.stores import open_stores

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        store = ArtifactStore(settings.artifacts, cache=settings.cache / "artifacts")
        if settings.artifacts_url is not None:
            store.check(writes=True)
    else:
        stores = open_stores(settings)
        with contextlib.closing(stores.database):
            stores.artifacts.check(writes=True)
    return Finding(about="artifacts", found=redact_url(settings.artifacts))


def _broker(settings: Settings) -> Finding:
    from finch_hub.workers.embedded import broker as home_broker
    from finch_hub.workers.embedded import worker as home_worker
    from finch_hub.workers.messaging import app, broker

    if settings.broker_url is None:
        running = home_worker.read_record(settings) if settings.home.exists() else None
        server = home_broker.find_server()
        start = f"with the worker in process {running.get('pid')}" if running else "started on demand"
        return Finding(about="broker", found=f"private, {start}: {server}")
    url = settings.broker_url.get_secret_value()
    broker.refuse_open_broker(url, allow_insecure=settings.allow_insecure)
    app.check_broker(url)
    return Finding(about="broker", found=f"{redact_url(url)} answers")


def _workers(settings: Settings) -> Finding:
    from finch_hub.hub.facade import Hub
    from finch_hub.workers.embedded import worker as home_worker

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        return Finding(about="workers", found="started when a job is submitted")
    with Hub(settings) as hub:
        alive = [worker for worker in hub.workers.find() if worker.state in ("active", "draining")]
        waiting = hub.jobs.counts()
    queued = sum(count for state, count in waiting.items() if state in ("queued", "running"))
    found = f"{len(alive)} running, {queued} jobs queued or running"
    paused = [f"worker {worker.id} claims no jobs: {worker.remark}" for worker in alive if worker.remark is not None]
    if settings.broker_url is not None and not alive:
        paused.append("start one with `finch-hub worker start`")
    if settings.broker_url is None and (failure := home_worker.find_failure(settings)) is not None:
        paused.append(
            f"the worker cannot start: {failure}; mend that, and `finch-hub worker stop` lets it start at once"
        )
    return Finding(about="workers", found=found, advice="; ".join(paused))


def _queue(settings: Settings) -> Finding:
    from finch_hub.hub.facade import Hub

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        return Finding(about="queue", found="empty")
    with Hub(settings) as hub:
        unreadable = hub.jobs.find_set_aside(limit=_SHOWN_JOBS + 1)
        unsettled = hub.jobs.find_unsettled()
    found, advice = [], []
    if unreadable:
        found.append(f"{_count(unreadable)} that some version cannot read")
        reasons = _join(f"{job.id}: {job.unreadable or job.reason}" for job in unreadable)
        advice.append(f"run a worker of another version, or cancel: {reasons}")
    if unsettled:
        found.append(f"{_count(unsettled)} whose end cannot be carried out")
        reasons = _join(f"{job_id}: {trouble}" for job_id, trouble in unsettled.items())
        advice.append(f"mend the cause, and workers try again within minutes: {reasons}")
    return Finding(about="queue", found=", ".join(found) or "every job can be read", advice=". ".join(advice))


def _count(jobs: Sized) -> str:
    return f"{tables.format_count(min(len(jobs), _SHOWN_JOBS), 'job')}{' or more' if len(jobs) > _SHOWN_JOBS else ''}"


def _join(reasons: Iterable[str]) -> str:
    *shown, last = itertools.islice(reasons, _SHOWN_JOBS + 1)
    return "; ".join([*shown, "and more (see `finch-hub jobs list`)" if len(shown) == _SHOWN_JOBS else last])


def _plugins(settings: Settings) -> Finding:
    from finch_hub.plugins.catalog import load_catalog

    catalog = load_catalog()
    found = ", ".join(f"{plugin.name} {plugin.version or ''}".strip() for plugin in catalog.plugins)
    return Finding(about="plugins", found=found, advice="; ".join(str(problem) for problem in catalog.problems))


def _listeners(settings: Settings) -> Finding:
    from finch_hub.hub.facade import Hub

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        return Finding(about="listeners", found="none")
    with Hub(settings) as hub:
        found = hub.workers.find_listeners()
    described = [
        f"{listener.name} ({tables.format_count(listener.waiting, 'change')} waiting, {listener.skipped} skipped)"
        for listener in found
    ]
    advice = [
        f"fix listener {listener.name}, and restart the workers: {listener.trouble}"
        for listener in found
        if listener.trouble is not None
    ]
    return Finding(about="listeners", found=", ".join(described) or "none", advice="; ".join(advice))
