from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_versions, datasets, jobs, tables, types, values
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import JobState


def test_now_is_the_clock_of_the_database_in_utc(database: Database) -> None:
    with database.read() as session:
        found = session.scalar(sa.select(types.now()))
    assert found is not None
    assert found.tzinfo is UTC
    assert abs(found - datetime.now(UTC)) < timedelta(minutes=5)  # both run on this machine


@pytest.mark.parametrize("seconds", [0.25, 90.0, -3600.0, 1e-7])
def test_later_adds_the_seconds(database: Database, seconds: float) -> None:
    with database.read() as session:
        now, then = session.execute(sa.select(types.now(), types.later(seconds))).one()
    assert abs((then - now).total_seconds() - seconds) < 0.05


def test_times_sort_and_compare(database: Database) -> None:
    with database.read() as session:
        earlier, later = session.execute(
            sa.select(types.later(-0.5) < types.now(), types.later(0.5) < types.now())
        ).one()
    assert (bool(earlier), bool(later)) == (True, False)


def test_time_in_another_zone_is_stored_in_utc(database: Database) -> None:
    moment = datetime(2026, 3, 1, 1, 30, 15, 250_000, tzinfo=timezone(timedelta(hours=5)))
    with database.read() as session:
        found = session.scalar(sa.select(sa.literal(moment, types.Instant())))
    assert found == moment
    assert found.tzinfo is UTC


def test_naive_time_is_refused(database: Database) -> None:
    with database.read() as session, pytest.raises(sa.exc.StatementError, match="has no time zone"):
        session.scalar(sa.select(sa.literal(datetime(2026, 3, 1), types.Instant())))


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [([], [], True), ([], ["a"], True), (["a"], [], False), (["a"], ["b", "a"], True), (["a", "c"], ["a", "b"], False)],
)
def test_subset_is_the_one_of_sets(database: Database, inner: list[str], outer: list[str], expected: bool) -> None:
    with database.read() as session:
        given_sets = sa.literal(inner, types.Json), sa.literal(outer, types.Json)
        assert bool(session.scalar(sa.select(types.subset(*given_sets)))) is expected


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_stored_texts_are_what_any_database_takes(text: str) -> None:
    stored = types.make_storable(text)
    assert "\0" not in stored
    assert stored.encode().decode() == stored
    assert len(stored) == len(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_never_holds_what_a_database_refuses(value: object) -> None:
    text = types.to_json(value)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "\\u0000" not in text.replace("\\\\", "")


def nest(depth: int, form: str) -> Any:
    value: Any = "a\x07"
    for _ in range(depth):
        value = [value] if form == "lists" else {"a": value}
    return value


@pytest.mark.parametrize("form", ["lists", "objects"])
@pytest.mark.parametrize("depth", [200, 201, 254, 255, 5000])
def test_what_is_stored_can_be_read(database: Database, depth: int, form: str) -> None:
    value = nest(depth, form)
    query = sa.select(sa.literal(value, types.Json))
    if depth == 200:
        with database.read() as session:
            assert session.scalar(query) == value
        return
    with pytest.raises(errors.InvalidInput, match="document: is nested more than 200 deep"), database.read() as session:
        session.scalar(query)


def test_json_and_prose_come_back_from_the_database(database: Database) -> None:
    value = {"loss": float("nan"), "text": "a\0b\udc80", "path\\u0000": [1, None, "ü\n"]}
    with database.read() as session:
        found = session.scalar(sa.select(sa.literal(value, types.Json)))
        prose = session.scalar(sa.select(sa.literal("Segmentation fault\0\udcff", types.Prose())))
    assert found == {"loss": None, "text": "a\ufffdb\ufffd", "path\\u0000": [1, None, "ü\n"]}
    assert prose == "Segmentation fault\ufffd\ufffd"


MANY = 70_000  # PostgreSQL takes 65,535 parameters


def test_column_is_compared_with_any_number_of_values(database: Database) -> None:
    selects = (
        sa.select(sa.literal(text).label("text"), sa.literal(number, sa.BigInteger()).label("number"))
        for text, number in (("a", 1), ("b'", 2**62), ("c", 3))
    )
    given = sa.union_all(*selects).subquery()
    for column, wanted, expected in (
        (given.c.text, ["b'", *map(str, range(MANY))], ["b'"]),
        (given.c.number, [2**62, *range(100, MANY)], [2**62]),
        (given.c.text, [], []),
    ):
        with database.read() as session:
            assert list(session.scalars(sa.select(column).where(types.one_of(column, wanted)))) == expected
            others = sa.select(column).where(~types.one_of(column, "wanted"))
            assert len(session.scalars(others, {"wanted": wanted}).all()) == 3 - len(expected)


@pytest.mark.slow
def test_as_many_jobs_as_there_are_may_be_named(database: Database) -> None:
    names = [f"job-{number}" for number in range(MANY)]
    job = registry.submit(database)
    with database.write() as session:
        assert jobs.select_unfinished(session, [*names, job.id]) == {job.id}
        datasets.hold(session, [registry.digest(name) for name in names])
        new = values.NewJob.of_spec(registry.train_spec(), depends_on=(job.id, *names))
        with pytest.raises(errors.NotFound, match="there is no job 'job-0'"):
            jobs.submit_many(session, [new])
    version = registry.add_version(database)
    with database.write() as session:
        adapter_versions.remove_tags(session, version.reference, *names)


@pytest.mark.slow
def test_as_many_jobs_as_there_are_may_be_listed(database: Database) -> None:
    """A job that depends on others costs the list a parameter."""
    first = registry.submit(database)
    registry.submit(database, depends_on=[first.id])
    kept = [column for column in tables.jobs.c if column.name not in ("id", "number")]
    counting = sa.select(sa.literal(1).label("n")).cte("counting", recursive=True)
    counting = counting.union_all(sa.select(counting.c.n + 1).where(counting.c.n < MANY))
    name = sa.literal("job-").concat(sa.cast(counting.c.n, sa.String()))
    waits = tables.jobs.c.state == JobState.WAITING
    copies = sa.select(name, *kept).select_from(tables.jobs.join(counting, sa.true())).where(waits)
    links = sa.select(name, sa.literal(first.id), sa.literal(0)).select_from(counting)
    with database.write() as session:
        session.execute(sa.insert(tables.jobs).from_select(["id", *kept], copies))
        session.execute(sa.insert(tables.dependencies).from_select(["job_id", "depends_on", "position"], links))
    with database.read() as session:
        found = jobs.find(session, limit=MANY + 2)
    assert len(found) == MANY + 2
    assert all(job.depends_on == (first.id,) for job in found[:MANY])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_document_is_read_as_the_standard_library_reads_it(value: object) -> None:
    text = types.to_json(value)
    assert repr(types.from_json(text)) == repr(json.loads(text))


def test_document_of_another_program_hides_no_rows(database: Database) -> None:
    """A damaged document becomes a note, and one with halves of surrogate pairs can be printed as JSON."""
    if not database.is_sqlite:
        pytest.skip("PostgreSQL refuses them")
    submitted = [registry.submit(database).id for _ in range(4)]
    documents = ['{"k\\ud800": ["v\\udcff\\u0000"]}', "[" * 100_000, '{"a":' * 700 + '"\\u0001"' + "}" * 700]
    with database.write() as session:
        for job_id, document in zip(submitted, documents, strict=False):
            changed = sa.text("UPDATE jobs SET result = :result WHERE id = :id")
            session.execute(changed, {"result": document, "id": job_id})
    with database.read() as session:
        found = {job.id: job.result for job in jobs.find(session)}
    assert found.keys() == set(submitted)
    assert found[submitted[0]] == {"k\ufffd": ["v\ufffd\ufffd"]}
    for result in found.values():
        json.dumps(result, ensure_ascii=False).encode()
