from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import audit, tables
from finch_hub.registry.database import Database


def add(database: Database, on: str = "legal/1", **fields: Any) -> int:
    with database.write() as session:
        return audit.add(session, **{"who": "ana", "action": "version.tag", "on": on, "details": {}, **fields})


def find(database: Database, **filters: Any) -> list[audit.AuditEntry]:
    with database.read() as session:
        return audit.find(session, **filters)


def test_entries_are_found_by_user_action_subject_and_time(database: Database) -> None:
    add(database, "legal/1", details={"tags": ["gold"]})
    add(database, "legal@best", action="alias.move", who="bo")
    add(database, "legal-long/1", outcome="refused", reason="it is not there")
    add(database, "org/model", action="base.add")
    assert [entry.on for entry in find(database)] == ["org/model", "legal-long/1", "legal@best", "legal/1"]
    assert [entry.on for entry in find(database, on="legal")] == ["legal@best", "legal/1"]
    assert [entry.details for entry in find(database, on="legal/1")] == [{"tags": ["gold"]}]
    assert [entry.on for entry in find(database, on="legal@best")] == ["legal@best"]
    assert [entry.on for entry in find(database, on="org/model")] == ["org/model"]
    assert [entry.who for entry in find(database, action="alias.move")] == ["bo"]
    assert [entry.on for entry in find(database, who="bo")] == ["legal@best"]
    (refused,) = find(database, on="legal-long")
    assert (refused.outcome, refused.reason, refused.job_id) == ("refused", "it is not there", None)
    later = refused.at + timedelta(hours=1)
    assert (len(find(database, since=refused.at - timedelta(hours=1))), find(database, since=later)) == (4, [])
    with pytest.raises(errors.InvalidSpec, match=r"no action 'alias'.*alias.move"):
        find(database, action="alias")


def test_subject_that_never_was_is_refused(database: Database) -> None:
    registry.add_version(database, "medical", base="small")
    job = registry.submit(database)
    add(database, "legal/1")
    add(database, "gone", action="base.remove")
    for on in ("medical", "medical/1", "small", job.id, registry.digest("small")):
        assert find(database, on=on) == []
    assert find(database, on="legal/9") == find(database, on="gone", who="bo") == []
    for on, hint in (("medicl", ".did you mean 'medical'"), ("nosuch/1", "$")):
        with pytest.raises(errors.NotFound, match=f"no adapter, base, data set, job or worker '{on}' ?{hint}"):
            find(database, on=on)


def test_pages_follow_on_each_other_while_entries_are_added(database: Database) -> None:
    for number in range(5):
        add(database, f"legal/{number + 1}")
    first = find(database, limit=2)
    add(database, "legal/9")
    second = find(database, limit=2, after=first[-1].id)
    third = find(database, limit=2, after=second[-1].id)
    assert [entry.on for entry in (*first, *second, *third)] == [f"legal/{number}" for number in (5, 4, 3, 2, 1)]


def test_change_of_a_job_names_the_job_and_its_owner(database: Database) -> None:
    job = registry.submit(database, owner="ana")
    with database.write() as session:
        for job_id in (job.id, "pruned"):
            audit.add_of_job(session, job_id, action="version.create", on="legal/1", details={"kind": "train"})
    pruned, made = find(database)
    assert (made.who, made.job_id, made.details) == ("ana", job.id, {"kind": "train"})
    assert (pruned.who, pruned.job_id) == ("", "pruned")


def test_long_and_odd_texts_are_stored(database: Database) -> None:
    add(database, "x\0" * 5000, reason="\ud800", details={"why": "\0"})
    (entry,) = find(database)
    assert len(entry.on) < 400
    assert find(database, on=entry.on) == [entry]


def test_further_transactions_of_a_change_complete_its_entry(database: Database) -> None:
    number = add(database, "jobs", action="jobs.prune", details={"jobs": 1})
    with database.write() as session:
        audit.describe_more(session, number, on="jobs", details={"jobs": 2})
    assert [entry.details for entry in find(database)] == [{"jobs": 2}]


def test_refusals_change_nothing_of_a_hub(database: Database) -> None:
    add(database, outcome="refused", reason="no")
    with database.read() as session:
        assert audit.is_empty(session)
    add(database)
    with database.read() as session:
        assert not audit.is_empty(session)


@pytest.mark.parametrize("filters", [{"who": "ana"}, {"action": "version.tag"}, {"on": "s7"}, {}])
def test_entries_are_found_by_an_index(database: Database, filters: dict[str, Any]) -> None:
    plans: list[str] = []
    with database.write() as session:
        rows = [
            {"who": f"u{n % 97}", "action": f"a{n % 50}", "subject": f"s{n}", "subject_name": f"s{n}"}
            for n in range(3000)
        ]
        filled: list[dict[str, Any]] = [{**row, "details": {}, "outcome": "done"} for row in rows]
        session.execute(sa.insert(tables.AuditRow), filled)
    with database.write() as session:
        if not database.is_sqlite:
            session.execute(sa.text("ANALYZE audit"))
    with database.read() as session:
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"

        def note(execution: Any) -> None:
            if isinstance(execution.statement, sa.Select):
                text = str(execution.statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
                plans.extend(str(row) for row in session.connection().exec_driver_sql(f"{explain} {text}"))

        sa.event.listen(session, "do_orm_execute", note)
        audit.find(session, limit=10, **filters)
    assert plans
    assert not [
        plan for plan in plans if "Seq Scan" in plan or ("SCAN audit" in plan and "INDEX" not in plan and filters)
    ]


def test_time_of_an_entry_has_a_zone(database: Database) -> None:
    add(database)
    (entry,) = find(database)
    assert isinstance(entry.at, datetime)
    assert entry.at.tzinfo is not None
