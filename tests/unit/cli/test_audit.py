"""`finch-hub audit`."""

from __future__ import annotations

import pytest
from support import registry

from finch_hub.registry import audit
from finch_hub.registry.database import Database

from .conftest import Run


@pytest.fixture
def changed(run: Run, database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A hub in which two users changed an adapter, and one change was refused."""
    for _ in range(2):
        registry.add_version(database)
    monkeypatch.setenv("FINCH_USER", "ana")
    assert run("adapters", "tag", "medical/1", "gold").status == 0
    monkeypatch.setenv("FINCH_USER", "bo")
    assert run("adapters", "alias", "medical/1", "best", "--why", "it is gold").status == 0
    assert run("adapters", "delete", "medical/1", "--yes").status == 4
    return database


def test_entries_tell_who_changed_what_and_what_was_refused(run: Run, changed: Database) -> None:
    entries = run("audit", "--json").json
    assert [(entry["who"], entry["action"], entry["on"], entry["outcome"]) for entry in entries] == [
        ("bo", "version.delete", "medical/1", "refused"),
        ("bo", "alias.move", "medical@best", "done"),
        ("ana", "version.tag", "medical/1", "done"),
    ]
    assert "it has the alias medical@best" in entries[0]["reason"]
    assert entries[1]["details"] == {"to": 1, "why": "it is gold"}
    drawn = run("audit", "--who", "ana").out
    assert "version.tag" in drawn
    assert "alias.move" not in drawn


def test_entries_are_filtered_and_paged(run: Run, changed: Database) -> None:
    assert len(run("audit", "--on", "medical/1", "--json").json) == 2
    assert len(run("audit", "--action", "alias.move", "--on", "medical", "--json").json) == 1
    assert run("audit", "--since", "2999-01-01", "--json").json == []
    page = run("audit", "--on", "medical", "--limit", 2)
    assert page.err.startswith("next page: finch-hub audit --on medical --limit=2 --after=")
    assert "version.tag" not in page.out
    assert "version.tag" in run(*page.err.split()[3:]).out
    refused = run("audit", "--action", "alias")
    assert (refused.status, "alias.move" in refused.err) == (2, True)
    assert run("audit", "--since", "yesterday").status == 2


def test_versions_of_aliases_and_long_reasons_are_shown_in_one_form(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    run("adapters", "alias", "medical/1", "best")
    with database.write() as session:
        audit.add(
            session, who="ana", action="hub.unbundle", on="x.bundle", details={}, outcome="refused",
            reason="2 problems\n  one\n  two",
        )  # fmt: skip
    shown = " ".join(run("audit").out.split())
    assert "to medical/1" in shown
    assert "2 problems one two" in shown


def test_time_that_is_none_is_refused_with_an_example(run: Run) -> None:
    refused = run("audit", "--since", "2026-13-01")
    assert refused.status == 2
    assert "'2026-13-01' is not a time (write a day or time, such as 2026-01-31" in refused.err
    assert "%" not in refused.err
