"""`finch-hub doctor`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finch_hub import errors
from finch_hub.cli import output
from finch_hub.display import tables
from finch_hub.formats.installed_metadata import find_version

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.registry.queue_status import QueueStatus
    from finch_hub.settings import Settings
    from finch_hub.workers.messaging.broker import BrokerStatus

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "celery", "sqlalchemy", "pydantic")
LEAST_FREE_BYTES = 2 * 10**9  # room for a converted base of 135 million parameters and several adapters
_SHOWN_JOBS = 5
LEAST_MEMORY_BYTES = 4 * 10**9
_MOST_MEMORY_SHARE = 0.9  # of a broker's limit
_MOST_SKEW_SECONDS = 5.0  # between clocks; object stores refuse requests after minutes
_START_SECONDS = 20.0  # in which a worker that is started on demand is there
_PATIENCE_SECONDS = 120.0  # in which an idle worker claims a job, unless something is wrong


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
    """Check this machine and its hub, and report problems with what to do about them.

    It exits with 0 if there are no problems, else with 7: then something needs a person. The field "ok" of the JSON
    says the same.
    """
    findings = [_clean(finding) for finding in check_machine(torch=not fast)]
    is_ok = not any(finding.advice for finding in findings)
    rows = [(finding.about, finding.found, tables.Lines.of(finding.advice)) for finding in findings]
    value = {"ok": is_ok, "findings": findings}
    output.emit(value, as_json, lambda: tables.draw_table(("check", "found", "advice"), rows))
    return 0 if is_ok else output.UNAVAILABLE


def _clean(finding: Finding) -> Finding:
    return dataclasses.replace(finding, found=output.redact(finding.found), advice=output.redact(finding.advice))


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
        "clocks": _clocks,
        "plugins": _plugins,
        "listeners": _listeners,
    }
    for about, check in checks.items():
        try:
            findings.append(check(current))
        except (errors.FinchError, OSError) as error:
            advice = str(error)
            cause = next((finding.about for finding in findings if finding.advice == advice), None)
            findings.append(Finding(about=about, found="unusable", advice=f"see {cause}" if cause else advice))
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
        version = find_version(name)
        if version is None:
            missing.append(name)
        else:
            versions.append(f"{name} {version}")
    advice = f"install {', '.join(missing)}" if missing else ""
    return Finding(about="versions", found=", ".join(versions), advice=advice)


def _devices() -> list[Finding]:
    from finch_hub.workers.supervision import devices

    findings: list[Finding] = []
    try:
        found_devices = devices.find_devices()
    except errors.Unavailable as error:
        return [Finding(about="devices", found="unusable", advice=str(error))]
    for device in found_devices:
        found = f"{device.name}, {tables.format_free(device.free_bytes, device.memory_bytes)}"
        findings.append(Finding(about=f"device {device.kind}:{device.index}", found=found))
    return findings


def _precision() -> Finding:
    from finch_hub.engine.bases import precision

    pays = precision.is_bfloat16_faster(cache=None)
    faster, slower = ("bfloat16", "float32") if pays else ("float32", "bfloat16")
    return Finding(about="precision", found=f"bases run in {faster}, which is faster than {slower} on this CPU")


def _settings(settings: Settings) -> Finding:
    from finch_hub.settings import find_misspelled

    shown = []
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        secret = getattr(value, "get_secret_value", None)
        shown.append(f"{name}={secret() if secret else value}")
    return Finding(about="settings", found=", ".join(shown) or "defaults", advice="; ".join(find_misspelled()))


def _home(settings: Settings) -> Finding:
    existing = settings.home
    while not existing.exists():
        existing = existing.parent
    try:
        tempfile.TemporaryFile(dir=existing).close()  # permission bits alone are unreliable on some file systems
        space, advice = _measure_space(existing, "FINCH_HOME")
    except OSError as error:
        advice = f"cannot write to {existing}: {error.strerror} (set FINCH_HOME to a writable folder)"
        return Finding(about="home", found=str(settings.home), advice=advice)
    return Finding(about="home", found=f"{settings.home}, {space}", advice=advice)


def _measure_space(folder: Path, variable: str) -> tuple[str, str]:
    """Return the free space of a folder as text, and advice if it is too little."""
    free = shutil.disk_usage(folder).free
    is_enough = free >= LEAST_FREE_BYTES
    advice = "" if is_enough else f"free some space, or set {variable} to a larger disk (`df -h {folder}` shows it)"
    return f"{tables.format_bytes(free)} free", advice


def _database(settings: Settings) -> Finding:
    from finch_hub.registry.database import Database

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        return Finding(about="database", found="SQLite in the home, created on first use")
    with contextlib.closing(Database(settings.database, allow_insecure=settings.allow_insecure)) as database:
        revision = database.revision()
        if settings.database_url is not None or revision is not None:
            database.check(tables=True)
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
    found = settings.artifacts
    if not Path(settings.artifacts).is_dir():  # an object store has no limit
        return Finding(about="artifacts", found=found)
    space, advice = _measure_space(Path(settings.artifacts), "FINCH_ARTIFACTS_URL")
    return Finding(about="artifacts", found=f"{found}, {space}", advice=advice)


def _broker(settings: Settings) -> Finding:
    from finch_hub.workers.embedded import broker as home_broker
    from finch_hub.workers.embedded import worker as home_worker

    if settings.broker_url is None:
        running = home_worker.read_record(settings) if settings.home.exists() else None
        server = home_broker.find_server()
        start = f"with the worker in process {running.get('pid')}" if running else "started on demand"
        return Finding(about="broker", found=f"private, {start}: {server}")
    url = settings.broker_url.get_secret_value()
    status = _ask_broker(url, settings)
    found, advice = [f"{url} answers"], []
    if status.used_bytes is not None:
        limit = f" of {tables.format_bytes(status.limit_bytes)}" if status.limit_bytes else ""
        found.append(f"{tables.format_bytes(status.used_bytes)}{limit} memory used, {status.policy}")
        if status.limit_bytes and status.used_bytes > _MOST_MEMORY_SHARE * status.limit_bytes:
            advice.append("its memory is nearly full: raise the limit with `redis-cli CONFIG SET maxmemory`")
    if status.evicted_keys:
        found.append(f"{tables.format_count(status.evicted_keys, 'key')} dropped")
        advice.append("it drops keys, so jobs start late: `redis-cli CONFIG SET maxmemory-policy noeviction`")
    return Finding(about="broker", found=", ".join(found), advice="; ".join(advice))


def _workers(settings: Settings) -> Finding:
    from finch_hub.hub.facade import Hub
    from finch_hub.registry.workers import HANDS_OVER
    from finch_hub.workers.embedded import worker as home_worker

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        return Finding(about="workers", found="started when a job is submitted")
    with Hub(settings, progress=False) as hub:
        workers = hub.workers.find()
    alive = [worker for worker in workers if worker.state in ("active", "draining", "stopping")]
    silent = sum(worker.state == "silent" for worker in workers)
    found = f"{len(alive)} running" + (f", {silent} silent" if silent else "")
    found += "".join(f", {worker.id} {worker.remark}" for worker in alive if worker.remark == HANDS_OVER)
    paused = [
        f"worker {worker.id} claims no jobs: {worker.remark}"
        for worker in alive
        if worker.remark not in (None, HANDS_OVER)
    ]
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
    with Hub(settings, progress=False) as hub:
        unreadable = hub.jobs.find_set_aside(limit=_SHOWN_JOBS + 1)
        unsettled = hub.jobs.find_unsettled()
        stuck = hub.jobs.find_stuck()
        status = hub.jobs.status()
        found, advice = [_describe_depth(status)], _explain_wait(hub, status)
    if status.lost:
        found.append(f"{_count(status.lost)} lost by workers and not recovered")
        start = f"jobs watch {status.lost[0]}" if settings.broker_url is None else "worker start"
        advice.append(f"no worker's sweep recovers {_join(status.lost)}: start a worker with `finch-hub {start}`")
    if unreadable:
        found.append(f"{_count(unreadable)} that some version cannot read")
        reasons = _join(f"{job.id}: {job.unreadable or job.reason}" for job in unreadable)
        advice.append(f"run a worker of another version, or cancel: {reasons}")
    if unsettled:
        found.append(f"{_count(unsettled)} whose end cannot be carried out")
        reasons = _join(f"{job_id}: {trouble}" for job_id, trouble in unsettled.items())
        advice.append(f"mend the cause, and workers try again within minutes: {reasons}")
    if stuck:
        found.append(f"{_count(stuck)} that {'waits' if len(stuck) == 1 else 'wait'} for nothing")
        reasons = _join(f"{job_id}: {why}" for job_id, why in stuck.items())
        advice.append(f"a worker settles them within minutes, so start one if none runs: {reasons}")
    return Finding(about="queue", found=", ".join(found), advice=". ".join(advice))


def _describe_depth(status: QueueStatus) -> str:
    depth = f"{status.queued:,} queued, {status.waiting:,} waiting for others, {status.running:,} running"
    if status.oldest is None or status.oldest_seconds is None:
        return depth
    return f"{depth}, job {status.oldest} has waited longest: {tables.format_duration(status.oldest_seconds)}"


def _explain_wait(hub: Hub, status: QueueStatus) -> list[str]:
    """Return advice if no worker runs or can run the job that waits longest, or if idle workers do not claim it."""
    from finch_hub.workers.embedded import worker as home_worker

    waited = status.oldest_seconds or 0.0
    if status.oldest is None or waited < _START_SECONDS:
        return []
    workers = hub.workers.find()
    if all(worker.state in ("silent", "stopped") for worker in workers):
        if hub.settings.broker_url is None and home_worker.find_failure(hub.settings) is not None:
            return []  # the advice about workers says why none starts
        start = "worker start" if hub.settings.broker_url is not None else f"jobs watch {status.oldest}"
        return [f"no worker runs, and job {status.oldest} waits: start one with `finch-hub {start}`"]
    is_patient = waited < _PATIENCE_SECONDS
    if is_patient and any(worker.state in ("draining", "stopping") or worker.remark for worker in workers):
        return []  # a worker that hands over or drains may be followed by another
    try:
        job = hub.jobs.get(status.oldest)
    except errors.NotFound:  # deleted meanwhile
        return []
    if reasons := [f"{worker} {', '.join(why)}" for worker, why in job.obstacles().items()]:
        fix = f"start a worker that can, with `finch-hub worker start`, or `finch-hub jobs cancel {job.id}`"
        return [f"no worker can run job {job.id}: {_join(reasons)} ({fix})"]
    if (idle := job.idle_workers()) and not is_patient:
        fix = f"look into its log, and restart it with `finch-hub worker stop {idle[0]}`"
        return [f"worker {idle[0]} is idle and does not claim job {job.id}: {fix}"]
    return []


def _clocks(settings: Settings) -> Finding:
    """Compare this machine's clock with those of a database server and a broker."""
    from finch_hub.hub.facade import Hub

    found, advice = [], []

    def compare(name: str, asked_at: float, told: float) -> None:
        now = time.time()
        skew = told - (asked_at + now) / 2
        found.append(f"{name} {skew:+.1f} s")
        if abs(skew) > _MOST_SKEW_SECONDS + (now - asked_at) / 2:
            fix = "synchronize the clocks of both machines, as with `timedatectl set-ntp true`"
            advice.append(f"this machine and the {name} differ by {tables.format_duration(abs(skew))}: {fix}")

    if settings.database_url is not None and not settings.database.startswith("sqlite"):
        with Hub(settings, progress=False) as hub:
            asked_at, status = time.time(), hub.jobs.status()
        compare("database", asked_at, status.at.timestamp())
    if settings.broker_url is not None:
        asked_at = time.time()
        status_of_broker = _ask_broker(settings.broker_url.get_secret_value(), settings)
        if status_of_broker.clock is not None:
            compare("broker", asked_at, status_of_broker.clock)
    return Finding(about="clocks", found=", ".join(found) or "only this machine's", advice="; ".join(advice))


def _ask_broker(url: str, settings: Settings) -> BrokerStatus:
    from finch_hub.workers.messaging import app, broker

    broker.refuse_open_broker(url, allow_insecure=settings.allow_insecure)
    return app.check_broker(url)


def _count(jobs: Sized) -> str:
    return f"{tables.format_count(min(len(jobs), _SHOWN_JOBS), 'job')}{' or more' if len(jobs) > _SHOWN_JOBS else ''}"


def _join(reasons: Iterable[str]) -> str:
    *shown, last = itertools.islice(reasons, _SHOWN_JOBS + 1)
    return "; ".join([*shown, "and more (see `finch-hub jobs list`)" if len(shown) == _SHOWN_JOBS else last])


def _plugins(settings: Settings) -> Finding:
    from finch_hub.plugins.catalog import load_catalog

    catalog = load_catalog(settings)
    found = ", ".join(plugin.label.removeprefix("plugin ") for plugin in catalog.plugins if plugin.is_loaded)
    return Finding(about="plugins", found=found, advice="; ".join(str(problem) for problem in catalog.problems))


def _listeners(settings: Settings) -> Finding:
    from finch_hub.hub.facade import Hub

    if settings.database_url is None and not (settings.home / "finch.db").exists():
        return Finding(about="listeners", found="none")
    with Hub(settings, progress=False) as hub:
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
