"""A hub with rows in every table, and with all artifacts that they refer to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from support import registry
from support.fleet import write_adapter

from finch_hub import settings
from finch_hub.artifacts import gate
from finch_hub.registry import (
    adapter_names,
    audit,
    datasets,
    deployment,
    evaluations,
    listeners,
    measurements,
    row_copies,
    tables,
    values,
    workers,
)
from finch_hub.registry.database import Database
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.jobs import BaseModelSource, Requirements, TrainSpec
from finch_hub.storage import purging
from finch_hub.storage.changes import changing
from finch_hub.storage.stores import Stores, open_stores

AWAY = "/models/that are elsewhere"
TEXTS = (b'{"messages":[]}\n', b'{"messages":[]}\n' * 2)
PURGED = b"purged"
SAMPLES = b'{"samples":[{"prompt":"A?","expected":"B.","before":"C.","after":"B."}],"max_tokens":64}'


def open_hub(folder: Path, database_url: str | None, **changes: Any) -> Stores:
    """Open the stores of a hub in a folder; None takes the SQLite file of the home."""
    home: dict[str, Any] = {"home": folder / "home", "allow_insecure": True, **changes}
    return open_stores(settings.load(**home, **({"database_url": database_url} if database_url else {})))


def fill(stores: Stores, folder: Path) -> None:
    """Fill a new hub. One job runs, one is to be cancelled, one waits, and one was forgotten by its worker."""
    database = stores.database
    texts = [stores.artifacts.put(text) for text in TEXTS]
    purged = stores.artifacts.put(PURGED)
    with database.write() as session:
        for number, digest in enumerate([*texts, purged]):
            datasets.add(session, digest=digest, format="messages", examples=1, size=16, name=f"data-{number}")
        datasets.add_sources(session, texts[1], [texts[0]])
        datasets.purge(session, "data-2")
    stores.artifacts.remove(purged)
    base = add_base(database, "tiny", str(folder))
    add_base(database, "away", AWAY)
    first = add_version(stores, folder, "birds", base, train_digest=texts[0])
    child = add_version(stores, folder, "both", base, parents=(first.reference,), text="both")
    deleted = add_version(stores, folder, "birds", base, text="deleted")
    add_evidence(stores, first)
    registry.delete_version(database, "birds", deleted.number)
    registry.set_alias(database, "birds", "best", 1)
    with database.write() as session:
        adapter_names.rename(session, "both", "team/both")
    add_version(stores, folder, "gone", base, text="gone")
    registry.purge(database, "gone/1")
    add_version(stores, folder, "hidden", base, text="hidden")
    with database.write() as session:
        adapter_names.rename(session, "hidden", "unseen")
    registry.delete(database, "unseen")
    with database.write() as session:
        audit.add(session, who="ana", action="alias.move", on="birds@best", details={"to": 1})
    needs = Requirements(labels=("a",), memory_bytes=1)
    spec = TrainSpec(adapter="birds", base=BaseModelSource(source="tiny"), train=texts[0], validation=texts[1])
    with database.write() as session:
        done, running, cancelled, queued = (
            registry.submit_job(
                session, spec, priority=priority, requirements=needs.evolve(is_memory_estimated=priority > 2)
            )
            for priority in (4, 3, 2, 1)
        )
        registry.submit_job(session, spec, depends_on=(running.id, done.id), idempotency_key="once é")
        evaluations.add(
            session, base_id=base.id, dataset=texts[1], evaluator="held_out_loss", metrics={"loss": 1.5},
            adapter=child.reference, job_id=done.id,
        )  # fmt: skip
    measurements.read(database, every=3600)
    slot = values.Capabilities(device="cpu", memory_bytes=2**40, labels=("a",))
    for job in (done, running, cancelled):
        assert registry.claimed(database, job_id=job.id, capabilities=slot).id == job.id
    registry.succeed(database, registry.get(database, done), report={"text": "naïve 🐦"})
    registry.cancel(database, cancelled)
    assert registry.get(database, queued).state == "queued"
    with database.write() as session:
        workers.register(session, describe_worker())
        (worker,) = workers.find(session)
        workers.mark_stopped(session, worker.id, worker.instance)
        session.execute(sa.insert(tables.settlements).values(job_id=done.id, root_id=done.id, settled=0))
        listeners.register(session, ["bell"])
        unheard = {"job_id": done.id, "seq": 1, "listener": "bell", "failed_calls": 0}
        session.execute(sa.insert(tables.announcements).values(**unheard))
        assert deployment.has_store(session)


def add_evidence(stores: Stores, version: values.AdapterVersion, samples: bytes = SAMPLES) -> None:
    """Add evidence with sample answers to a version."""
    from finch_hub.registry.adapter_versions import get_row

    digest = stores.artifacts.put(samples)
    with stores.database.write() as session:
        row = get_row(session, version.reference)
        document = Evidence(kind="train", notes=("measured",)).to_document()
        session.execute(sa.insert(tables.Evidence).values(version_id=row.id, document=document, samples=digest))


def purge_dataset(name: str, stores: Stores) -> purging.PurgedDataset:
    """Purge a data set, as a user does."""
    with changing(stores, "dataset.purge", name) as change:
        return purging.purge_dataset(name, change, stores)


def describe_worker() -> values.WorkerDescription:
    device = values.Device(kind="cpu", name="some cpu", memory_bytes=2**40, free_bytes=2**39)
    return values.WorkerDescription(
        id="w", hostname="here", pid=1, version="0", schema_revision="0001", devices=(device,)
    )


def add_base(database: Database, name: str, path: str) -> values.Base:
    from finch_hub.registry import bases

    with database.write() as session:
        description = BaseDescription(
            name=name, source=path, fingerprint=registry.digest(name), architecture="LlamaForCausalLM", parameters=1
        )
        added = bases.add(session, description)
        session.execute(sa.update(tables.Base).where(tables.Base.name == name).values(path=path))
    return added


def add_version(
    stores: Stores, folder: Path, name: str, base: values.Base, *, text: str = "", **lineage: Any
) -> values.AdapterVersion:
    """Add a version with files of its own, and with the tag `checked`."""
    from finch_hub.registry import adapter_versions

    files = folder / f"files-{name}-{text}"
    write_adapter(files)
    config = json.loads((files / "adapter_config.json").read_text())
    (files / "adapter_config.json").write_text(json.dumps(config | {"revision": text or name}))
    (files / "README.md").write_text(text)
    parents = tuple(values.ParentVersion(reference=str(p), weight=0.5) for p in lineage.pop("parents", ()))
    with stores.database.write() as session:
        made = adapter_versions.create(
            session,
            name=name,
            digest=stores.artifacts.put_tree(files),
            identity=gate.adapter_identity(files),
            base=base,
            kind="train",
            lineage=values.Lineage(parents=parents, **lineage),
            metrics={"rank": 2, "loss": 0.25},
        )
        return adapter_versions.add_tags(session, made.reference, "checked")


def read_all(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Return all rows by table, in the order of their keys."""
    with database.read() as session:
        return {table.name: list(_rows(session, table)) for table in row_copies.list_tables()}


def _rows(session: Any, table: sa.Table) -> Iterator[dict[str, Any]]:
    for batch in row_copies.read_rows(session, table):
        yield from batch
