"""Audit: each public method that changes the registry leaves an entry, and all others leave none."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import registry
from support.adapters import save_adapter

from finch_hub import Hub, errors, settings
from finch_hub.hub.adapters import Adapters
from finch_hub.hub.audit import Audit
from finch_hub.hub.bases import Bases
from finch_hub.hub.datasets import Datasets
from finch_hub.hub.jobs import JobHandle, Jobs
from finch_hub.hub.workers import Workers
from finch_hub.registry import audit, schema_revisions, values, workers
from finch_hub.registry.database import Database

PARTS = (Hub, Adapters, Audit, Bases, Datasets, Jobs, JobHandle, Workers)
READERS = {
    Hub: {"close", "events", "generator", "get_sweep", "plan", "preview_training", "back_up", "bundle", "fsck"},
    Adapters: {
        *("alias_history", "card", "check_purge", "evaluations", "find", "find_deleted", "folder", "get", "get_usable"),
        "datasets",
        *(
            "limits",
            "lineage",
            "measure_deletion",
            "verify",
            "versions",
            "compare",
            "evidence",
            "iterate",
            "metric",
            "overview",
            "samples",
        ),
        "write_report",
    },
    Audit: {"find"},
    Bases: {"find", "get", "resolve"},
    Datasets: {"find", "get", "preview"},
    Jobs: {
        "count_running",
        "counts",
        "find",
        "find_set_aside",
        "find_stuck",
        "find_unsettled",
        "get",
        "iterate",
        "status",
    },
    JobHandle: {
        *(
            "attempts",
            "events",
            "follow",
            "has_output",
            "history",
            "list_warnings",
            "idle_workers",
            "is_saved",
            "is_unattended",
            "obstacles",
            "refresh",
        ),
        *("report", "result", "save", "version", "wait", "wait_status", "write_report"),
    },
    Workers: {"find", "find_listeners", "stop_own", "wait_until_stopped"},
}
# The row of a job has its owner and time. What nobody refers to has no user who changes it. `test_unbundling.py` tests
# the entries of `unbundle`.
WITHOUT_ENTRY = {
    Hub: {"unbundle", "train", "sweep", "compose", "merge", "quantize", "reproduce", "export", "evaluate", "collect"},
    JobHandle: {"retry"},
}
Change = Callable[[Hub, Path], object]
CHANGES: dict[str, tuple[audit.Action, str, Change]] = {
    "Hub.import_adapter": (
        "version.create",
        "guest/1",
        lambda hub, place: hub.import_adapter(place / "made", name="guest", base="tiny"),
    ),
    "Adapters.import_": (
        "version.create",
        "guest/1",
        lambda hub, place: hub.adapters.import_(place / "made", name="guest", base="tiny"),
    ),
    "Adapters.check": ("version.check", "guest/1", lambda hub, place: check(hub, place)),
    "Adapters.set_alias": (
        "alias.move",
        "medical@best",
        lambda hub, _: hub.adapters.set_alias("medical", "best", why="it is good"),
    ),
    "Adapters.delete_alias": ("alias.remove", "legal@old", lambda hub, _: hub.adapters.delete_alias("legal", "old")),
    "Adapters.tag": ("version.tag", "legal/1", lambda hub, _: hub.adapters.tag("legal@old", "gold")),
    "Adapters.untag": ("version.untag", "legal/1", lambda hub, _: hub.adapters.untag("legal", "gold")),
    "Adapters.rename": ("adapter.rename", "medical", lambda hub, _: hub.adapters.rename("medical", "cures")),
    "Adapters.describe": ("adapter.describe", "legal", lambda hub, _: hub.adapters.describe("legal", "Names laws.")),
    "Adapters.note": ("version.note", "legal/1", lambda hub, _: hub.adapters.note("legal", "Some notes.")),
    "Adapters.edit_card": ("card.edit", "legal/1", lambda hub, _: hub.adapters.edit_card("legal", "A card.")),
    "Adapters.reset_card": ("card.reset", "legal/1", lambda hub, _: hub.adapters.reset_card("legal")),
    "Adapters.delete": ("version.delete", "medical/1", lambda hub, _: hub.adapters.delete("medical/1")),
    "Adapters.delete of all": ("adapter.delete", "medical", lambda hub, _: hub.adapters.delete("medical")),
    "Adapters.restore": ("version.restore", "guest/1", lambda hub, place: restore(hub, place, "guest/1")),
    "Adapters.restore of all": ("adapter.restore", "guest", lambda hub, place: restore(hub, place, "guest")),
    "Adapters.purge": ("version.purge", "medical/1", lambda hub, _: hub.adapters.purge("medical/1")),
    "Adapters.purge of all": ("adapter.purge", "medical", lambda hub, _: hub.adapters.purge("medical")),
    "Bases.add": ("base.add", "more", lambda hub, place: hub.bases.add(place / "base", name="more", replace=True)),
    "Bases.remove": ("base.remove", "unused", lambda hub, _: hub.bases.remove("unused")),
    "Datasets.add": ("dataset.add", "owls", lambda hub, _: hub.datasets.add([("Which?", "An owl.")], name="owls")),
    "Datasets.purge": ("dataset.purge", "birds", lambda hub, _: hub.datasets.purge("birds")),
    "Jobs.prune": ("jobs.prune", "jobs", lambda hub, _: hub.jobs.prune(keep=0)),
    "JobHandle.cancel": ("job.cancel", "ID", lambda hub, _: hub.jobs.get(hub.jobs.find()[0].id).cancel()),
    "Workers.drain": ("worker.drain", "gpu-1", lambda hub, _: hub.workers.drain("gpu-1")),
    "Workers.stop": ("worker.stop", "gpu-1", lambda hub, _: hub.workers.stop("gpu-1")),
    "Hub.restore": ("hub.restore", "BACKUP", lambda hub, place: None),  # into a new hub, see below
}


def check(hub: Hub, place: Path) -> None:
    """Import an adapter without the files of its base, and check it with them."""
    shutil.move(place / "base", place / "away")
    hub.import_adapter(place / "made", name="guest", base="tiny")
    shutil.move(place / "away", place / "base")
    hub.adapters.check("guest/1")


def restore(hub: Hub, place: Path, reference: str) -> None:
    hub.import_adapter(place / "made", name="guest", base="tiny")
    hub.adapters.delete(reference)
    hub.adapters.restore(reference)


@pytest.fixture
def place(hub: Hub, database: Database, tiny_folder: Path, tmp_path: Path) -> Path:
    """A folder with a base and an adapter, of a hub that has something of everything."""
    place = tmp_path / "place"
    place.mkdir()
    shutil.copytree(tiny_folder, place / "base")
    save_adapter(tiny_folder, place / "made", r=4, target_modules=["q_proj"])
    hub.bases.add(place / "base", name="tiny")
    for name in ("legal", "medical"):
        registry.add_version(database, name, base="small", tags=["gold"])
    registry.set_alias(database, "legal", "old", 1)
    registry.add_base(database, "unused")
    hub.datasets.add([("Which?", "A bird.")], name="birds")
    registry.submit(database, spec=registry.train_spec("another"))
    with database.write() as session:
        description = values.WorkerDescription(
            id="gpu-1", hostname="h", pid=1, version="0", schema_revision=schema_revisions.HEAD, devices=()
        )
        workers.register(session, description)
    return place


def test_each_public_method_is_known_to_change_something_or_not() -> None:
    for part in PARTS:
        methods = {name for name, _ in inspect.getmembers(part, inspect.isfunction) if not name.startswith("_")}
        changing = {
            name.partition(".")[2].partition(" ")[0] for name in CHANGES if name.startswith(f"{part.__name__}.")
        }
        assert methods == READERS.get(part, set()) | WITHOUT_ENTRY.get(part, set()) | changing, part.__name__


def test_hub_opens_no_transaction_that_leaves_no_entry_but_those_of_submissions() -> None:
    folder = Path(inspect.getfile(Hub)).parent
    writers = {file.name: file.read_text().count("database.write()") for file in folder.glob("*.py")}
    assert {name: count for name, count in writers.items() if count} == {"jobs.py": 1, "submission.py": 1}


@pytest.mark.parametrize("name", CHANGES)
def test_change_leaves_its_entry(hub: Hub, place: Path, database: Database, name: str, tmp_path: Path) -> None:
    action, on, change = CHANGES[name]
    before = hub.audit.find(limit=1)[0].id
    if name == "Hub.restore":
        hub.back_up(tmp_path / "backup")
        with Hub(settings.load(home=tmp_path / "other", broker_url="redis://127.0.0.1:1/0")) as other:
            other.restore(tmp_path / "backup")
            (entry, *rest) = other.audit.find()
        assert rest
        on = str(tmp_path / "backup")
    else:
        on = on if on != "ID" else hub.jobs.find()[0].id
        change(hub, place)
        entry = hub.audit.find(limit=1)[0]
        assert entry.id > before
    assert (entry.action, entry.on, entry.outcome, entry.who) == (action, on, "done", hub.settings.user_name)
    assert name == "Hub.restore" or hub.audit.find(on=on, action=action, who=hub.settings.user_name)


REFUSALS: dict[str, tuple[audit.Action, Callable[[Hub], object]]] = {
    "a move of an alias": ("alias.move", lambda hub: hub.adapters.set_alias("legal", "old", expected=7)),
    "a deletion": ("version.delete", lambda hub: hub.adapters.delete("legal/1")),
    "a deletion of an adapter": ("adapter.delete", lambda hub: hub.adapters.delete("legal")),
    "a purge": ("adapter.purge", lambda hub: hub.adapters.purge("legal")),
    "a look before a purge": ("adapter.purge", lambda hub: hub.adapters.check_purge("legal")),
    "a restoration": ("version.restore", lambda hub: hub.adapters.restore("legal/1")),
    "a tag": ("version.tag", lambda hub: hub.adapters.tag("legal", "no good name")),
    "an import": ("version.create", lambda hub: hub.import_adapter("/nowhere", name="x", base="tiny")),
    "a base": ("base.remove", lambda hub: hub.bases.remove("small")),
    "data": ("dataset.purge", lambda hub: hub.datasets.purge("none")),
    "a worker": ("worker.drain", lambda hub: hub.workers.drain("gpu-9")),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.usefixtures("place")
def test_refused_change_leaves_its_reason(hub: Hub, name: str) -> None:
    action, change = REFUSALS[name]
    with pytest.raises(errors.FinchError) as raised:
        change(hub)
    entry = hub.audit.find(limit=1)[0]
    assert (entry.action, entry.outcome, entry.reason) == (action, "refused", str(raised.value))


@pytest.mark.usefixtures("place")
def test_reads_and_submissions_leave_no_entry(hub: Hub, data: Path) -> None:
    before = hub.audit.find(limit=1)[0].id
    with pytest.raises(errors.NotFound):
        hub.adapters.get("none-such")
    handle = hub.train(data, adapter="new", base="tiny")
    handle.refresh()
    assert hub.audit.find(limit=1)[0].id == before


@pytest.mark.usefixtures("versions")
def test_alias_tells_who_moved_it_and_why(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "correct-horse-battery")
    with pytest.warns(errors.FinchWarning, match="masked a secret in the reason"):
        hub.adapters.set_alias("medical", "best", why="correct-horse-battery is good")
    (move,) = hub.adapters.alias_history("medical@best")
    (entry,) = hub.audit.find(on="medical")
    assert entry.details == {"to": 1, "why": move.why}
    assert (move.who, move.why) == (hub.settings.user_name, "*** is good")


@pytest.mark.usefixtures("place")
def test_purged_rows_are_in_no_entry(hub: Hub) -> None:
    secret = "What did the patient with the blue umbrella say?"
    hub.datasets.add([(secret, "Nothing at all was said.")], name="talks")
    hub.adapters.set_alias("legal", "best", why=f"it answers {secret}")
    hub.datasets.purge("talks")
    entries: list[Any] = [*hub.audit.find(), *hub.adapters.alias_history("legal")]
    assert "umbrella" not in str(entries)


@pytest.mark.usefixtures("place")
def test_entries_of_a_day_are_found(hub: Hub) -> None:
    today = date.today()
    assert hub.audit.find(since=today - timedelta(days=1))
    assert hub.audit.find(since=today + timedelta(days=2)) == []
    assert hub.audit.find(since=datetime.now(UTC) + timedelta(hours=1)) == []
