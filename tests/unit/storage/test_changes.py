"""Changes: what they write and the entry in the audit are one transaction, and a refusal has an entry of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import registry

from finch_hub import errors, settings
from finch_hub.registry import adapter_versions, audit
from finch_hub.storage.changes import changing
from finch_hub.storage.stores import Stores, open_stores


@pytest.fixture
def stores(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    monkeypatch.setenv("MY_SECRET", "correct-horse-battery")
    opened = open_stores(settings.load(home=tmp_path, database_url=database_url, allow_insecure=True, user="ana"))
    registry.add_version(opened.database, "legal")
    yield opened
    opened.database.close()


def entries(stores: Stores) -> list[audit.AuditEntry]:
    with stores.database.read() as session:
        return audit.find(session)


def test_change_and_its_entry_are_committed_together(stores: Stores) -> None:
    with changing(stores, "version.tag", "legal", tags=("gold",), why=None) as change, change.write() as session:
        adapter_versions.add_tags(session, "legal/1", "gold")
        change.on = "legal/1"
    (entry,) = entries(stores)
    assert (entry.who, entry.action, entry.on, entry.outcome) == ("ana", "version.tag", "legal/1", "done")
    assert entry.details == {"tags": ["gold"]}


def test_refused_change_is_undone_and_its_reason_kept(stores: Stores) -> None:
    def tag() -> None:
        with changing(stores, "version.tag", "legal/9", tags=["gold"]) as change, change.write() as session:
            adapter_versions.add_tags(session, "legal/1", "gold")
            adapter_versions.add_tags(session, "legal/9", "gold")

    with pytest.raises(errors.NotFound):
        tag()
    assert registry.resolve(stores.database, "legal/1").tags == ()
    (entry,) = entries(stores)
    assert (entry.outcome, entry.on, entry.details) == ("refused", "legal/9", {"tags": ["gold"]})
    assert entry.reason == "there is no adapter version 'legal/9' (did you mean 'legal/1'?)"


def test_failure_and_fault_leave_no_entry(stores: Stores) -> None:
    for error in (errors.Unavailable("the store is away"), ValueError("a fault")):
        with pytest.raises(type(error)), changing(stores, "version.tag", "legal/1") as change, change.write():
            raise error
    assert entries(stores) == []


def test_change_that_writes_nothing_has_no_entry(stores: Stores) -> None:
    with changing(stores, "version.check", "legal/1"):
        pass
    assert entries(stores) == []


def test_several_transactions_of_a_change_have_one_entry(stores: Stores) -> None:
    def prune() -> None:
        with changing(stores, "jobs.prune", "jobs") as change:
            for number in (1, 2):
                with change.write():
                    change.details["jobs"] = number
            raise errors.Conflict("the third part is refused")

    with pytest.raises(errors.Conflict):
        prune()
    (entry,) = entries(stores)
    assert (entry.outcome, entry.details) == ("done", {"jobs": 2})


def test_texts_of_entries_have_no_secrets(stores: Stores) -> None:
    secret = "correct-horse-battery"
    with changing(stores, "base.add", f"https://u:{secret}@h/x", source=f"s3://{secret}@h") as change, change.write():
        change.details["why"] = [secret]
    with pytest.raises(errors.Conflict), changing(stores, "base.add", secret):
        raise errors.Conflict(f"the source {secret} is odd")
    assert len(entries(stores)) == 2
    assert secret not in str(entries(stores))


def test_reason_of_a_refused_data_set_quotes_no_row(stores: Stores) -> None:
    with pytest.raises(errors.InvalidDataset), changing(stores, "dataset.add", "rows"):
        raise errors.InvalidDataset("the patient Ms. Finch is no JSON", where="line 3")
    (entry,) = entries(stores)
    assert "Finch" not in str(entry)


def test_long_reason_is_cut(stores: Stores) -> None:
    with pytest.raises(errors.Conflict), changing(stores, "version.tag", "legal/1"):
        raise errors.Conflict("no " * 5000)
    (entry,) = entries(stores)
    assert len(entry.reason or "") == 1000
