"""Searches of versions, on both databases."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry

from finch_hub import errors
from finch_hub.registry import datasets, tables, values, version_search
from finch_hub.registry.database import Database

Test = Callable[[values.AdapterVersion], Any]
LOSSES = (1.5, None, 2.5, 0.5, 1.5)

# Each query with what it means, which is computed for each version apart.
QUERIES: dict[str, Test] = {
    "": lambda v: True,
    "birds": lambda v: v.name == "birds",
    "sing": lambda v: "they sing" in v.card,
    "SINGÍNG": lambda v: "singing" in v.card,
    "sing*": lambda v: "sing" in v.card,
    '"they sing"': lambda v: "they sing" in v.card,
    '"sing they"': lambda v: False,
    "they -loud": lambda v: "they" in v.card and "loud" not in v.card,
    "-they": lambda v: "they" not in v.card,
    "gold": lambda v: "gold" in v.tags,
    "seeds": lambda v: v.lineage.train_digest == registry.digest("seeds"),
    "name:bees": lambda v: v.name == "bees",
    "name:b*": lambda v: v.name.startswith("b"),
    "base:tiny": lambda v: v.base.name == "tiny",
    "-base:tiny": lambda v: v.base.name != "tiny",
    "kind:compose": lambda v: v.kind == "compose",
    "state:quarantined": lambda v: v.state == "quarantined",
    "-state:ready they": lambda v: v.state != "ready" and "they" in v.card,
    "tag:gold": lambda v: "gold" in v.tags,
    "tag:owner": lambda v: "owner" in v.tags or "owner=ana" in v.tags,
    "tag:owner=ana": lambda v: "owner=ana" in v.tags,
    "-tag:gold": lambda v: "gold" not in v.tags,
    "owner:ben": lambda v: v.number == 3,
    "preset:quick": lambda v: v.number == 4,
    "-preset:quick": lambda v: v.number != 4,
    "parent:birds/1": lambda v: any(p.reference == "birds/1" for p in v.lineage.parents),
    "parent:birds": lambda v: any(p.reference.startswith("birds/") for p in v.lineage.parents),
    "data:seeds": lambda v: v.lineage.train_digest == registry.digest("seeds"),
    f"data:{registry.digest('seeds')[:12]}": lambda v: v.lineage.train_digest == registry.digest("seeds"),
    "metric.loss_after<1.5": lambda v: v.metrics.get("loss_after", 9) < 1.5,
    "metric.loss_after=1.5": lambda v: v.metrics.get("loss_after") == 1.5,
    "-metric.loss_after<=1.5": lambda v: not v.metrics.get("loss_after", 9) <= 1.5,
    "lora.r=16": lambda v: v.spec.get("lora", {}).get("rank") == 16,
    "lora.r>=8": lambda v: v.spec.get("lora", {}).get("rank", v.metrics.get("rank", 0)) >= 8,
    "training.epochs>1 kind:train": lambda v: v.kind == "train" and v.spec["training"]["epochs"] > 1,
    "created>2026-01-03": lambda v: v.created_at >= datetime(2026, 1, 4, tzinfo=UTC),
    "updated:2026-02": lambda v: v.number == 2,
    "they state:ready tag:owner metric.loss_after<2": lambda v: (
        "they" in v.card
        and v.state == "ready"
        and any("owner" in tag for tag in v.tags)
        and v.metrics.get("loss_after", 9) < 2
    ),
}
ORDERS: dict[str, Callable[[values.AdapterVersion], Any]] = {
    "created": lambda v: v.created_at,
    "updated": lambda v: v.updated_at,
    "name": lambda v: v.name,
    "metric.loss_after": lambda v: v.metrics.get("loss_after"),
}


@pytest.fixture
def filled(database: Database) -> Database:
    """A registry with versions of three adapters, which differ in all that can be searched."""
    with database.write() as session:
        datasets.add(session, digest=registry.digest("seeds"), format="messages", examples=1, name="seeds")
    for number in range(15):
        name = ("birds", "bees", "trees")[number % 3]
        rank = (8, 16)[number % 2]
        is_composed = number in (9, 10)
        loss = LOSSES[number % 5]
        registry.add_version(
            database,
            name,
            base=("tiny", "small")[number % 2],
            kind="compose" if is_composed else "train",
            state="quarantined" if number % 4 == 3 else "ready",
            lineage=registry.made_from("birds/1", "bees/2")
            if is_composed
            else values.Lineage(train_digest=registry.digest(("seeds", "nuts")[number % 2])),
            spec={} if is_composed else {"lora": {"rank": rank}, "training": {"epochs": number % 3 + 1}},
            metrics={"rank": 4, **({"loss_after": loss} if loss is not None else {}), "name": "x"},
            card=("# A\nthey sing.", "singing, loud", "they are loud")[number % 3 if number < 12 else 1],
            tags=[*(["gold"] if number % 5 == 1 else []), *(["owner"] if number % 2 else [])],
        )
    changes = tables.AdapterVersion.__table__
    with database.write() as session:
        for key in range(1, 16):
            created = datetime(2026, 1, (key * 7) % 15 + 1, tzinfo=UTC)
            session.execute(sa.update(changes).where(changes.c.id == key).values(created_at=created, updated_at=None))
        for number, change in ((2, {"updated_at": datetime(2026, 2, 3, tzinfo=UTC)}), (3, {"owner": "ben"})):
            session.execute(sa.update(changes).where(changes.c.number == number).values(change))
        session.execute(sa.update(changes).where(changes.c.number == 4).values(preset="quick"))
        even = sa.select(changes.c.id).where(changes.c.number % 2 == 0)
        tags = tables.Tag.__table__
        session.execute(sa.update(tags).where(tags.c.name == "owner", tags.c.version_id.in_(even)).values(value="ana"))
    deleted = registry.add_version(database, "birds", card="they sing")
    registry.delete_version(database, "birds", deleted.number)
    return database


def find(database: Database, query: str = "", **options: Any) -> values.VersionPage:
    with database.read() as session:
        return version_search.find(session, query, **options)


def test_data_set_finds_what_was_trained_on_a_part_of_it(filled: Database) -> None:
    sown = registry.digest("sown")
    nuts = registry.digest("nuts")
    with filled.write() as session:
        for digest, name in ((sown, "sown"), (nuts, None)):
            datasets.add(session, digest=digest, format="messages", examples=2, name=name)
        datasets.add_sources(session, nuts, [sown])
    wanted = {v.reference for v in find(filled, f"data:{nuts}").versions}
    assert wanted
    for text in ("sown", sown, sown[:8]):
        assert {v.reference for v in find(filled, f"data:{text}").versions} == wanted
    assert not {v.reference for v in find(filled, "-data:sown").versions} & wanted


@pytest.mark.slow
@pytest.mark.parametrize("few", [20_000, 1], ids=["sorted", "in order"])
def test_search_finds_what_a_look_at_each_version_finds(
    filled: Database, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_search, "_FEW", few)
    monkeypatch.setattr(version_search, "_FEW_TEXTS", few)
    everything = [version for name in ("birds", "bees", "trees") for version in registry.list_versions(filled, name)]
    for query, is_wanted in QUERIES.items():
        wanted = [version for version in everything if is_wanted(version)]
        for order, key in ORDERS.items():
            for sign in ("", "-"):
                page = find(filled, query, sort=f"{sign}{order}")
                listed = [version for version in wanted if key(version) is not None]
                assert {v.reference for v in page.versions} == {v.reference for v in listed}, (query, order)
                keys = [key(version) for version in page.versions]
                assert keys == sorted(keys, reverse=bool(sign)), (query, order)
                assert page.next is None


@pytest.mark.parametrize("few", [20_000, 1], ids=["sorted", "in order"])
@pytest.mark.parametrize("order", [f"{sign}{order}" for order in ORDERS for sign in ("", "-")])
def test_pages_have_each_version_once(filled: Database, order: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_search, "_FEW", few)
    monkeypatch.setattr(version_search, "_FEW_TEXTS", few)
    for query in ("", "they", "tag:owner", "state:ready -gold"):
        whole = find(filled, query, sort=order)
        found: list[values.AdapterVersion] = []
        after = None
        while after is not None or not found:
            page = find(filled, query, sort=order, limit=2, after=after)
            found += page.versions
            after = page.next
        assert tuple(found) == whole.versions


def test_cursor_belongs_to_its_query_and_order(filled: Database) -> None:
    after = find(filled, "they", limit=1).next
    assert after is not None
    for query, order in (("sing", "-created"), ("they", "created"), ("they", "name")):
        with pytest.raises(errors.InvalidSpec, match="after: is not a cursor of this list"):
            find(filled, query, sort=order, after=after)


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("base:tinny", "there is no base 'tinny' .did you mean 'tiny'"),
        ("data:seedz", "there is no data set 'seedz' .did you mean 'seeds'"),
        ("parent:birdz/1", "there is no adapter 'birdz' .did you mean 'birds'"),
        ("parent:birdz", "there is no adapter 'birdz' .did you mean 'birds'"),
    ],
)
def test_names_of_a_query_must_exist(filled: Database, query: str, what: str) -> None:
    with pytest.raises(errors.NotFound, match=what):
        find(filled, query)


@pytest.mark.parametrize(
    ("query", "sort", "what"),
    [
        ("metric.loss_aftr<2", "-created", "metric 'loss_aftr' .did you mean 'loss_after'"),
        ("-metric.loss_aftr<2", "-created", "metric 'loss_aftr' .did you mean"),
        ("birds", "-metric.loss_aftr", "metric 'loss_aftr' .did you mean"),
        ("metric.zzz=1", "name", r"metric 'zzz' .known: loss_after, rank\)"),
        ("lora.zzz=1", "name", r"number of LoRA settings 'zzz' .known: alpha, dropout, rank, rank_budget"),
        ("training.epoch=1", "name", "number of training settings 'epoch' .did you mean 'epochs'"),
    ],
)
def test_number_that_no_version_has_is_refused(filled: Database, query: str, sort: str, what: str) -> None:
    with pytest.raises(errors.NotFound, match=f"there is no {what}"):
        find(filled, query, sort=sort)


def test_number_of_settings_and_of_jobs_is_known_without_versions(database: Database) -> None:
    assert find(database, "lora.r=16 training.epochs>2", sort="-lora.alpha").versions == ()
    assert find(database, "metric.loss_after<2", sort="-metric.worst_retention").versions == ()
    with pytest.raises(errors.NotFound, match=r"there is no metric 'of_a_plugin'$"):
        find(database, "metric.of_a_plugin<2")


def test_words_are_no_language_of_the_database(filled: Database) -> None:
    for query in ("sing AND", "NEAR", "a_b&|!()", '"* OR sing"', "text:sing'--", "it's", "sing OR they NOT x", "%_"):
        try:
            find(filled, query)
        except errors.InvalidInput:
            assert query in ("text:sing'--", "%_")


@pytest.mark.parametrize("size", [1, 15])
def test_page_takes_a_fixed_number_of_statements(filled: Database, size: int) -> None:
    with filled.read() as session:
        statements: list[str] = []
        connection = session.connection()
        sa.event.listen(connection, "before_cursor_execute", lambda *args: statements.append(args[2]))
        page = version_search.find(session, "kind:train base:tiny", sort="name", limit=size)
    assert page.versions
    # The base, two counts, the page, and its versions with their parents. PostgreSQL's settings take two more.
    assert len(statements) == (6 if filled.is_sqlite else 8), statements
    assert operator.itemgetter(-1)(statements)


def test_search_leaves_the_settings_of_its_transaction_as_they_were(filled: Database) -> None:
    if filled.is_sqlite:
        pytest.skip("SQLite has no settings of a transaction")

    def read_settings() -> list[Any]:
        return list(session.execute(sa.text("SELECT name, setting FROM pg_settings ORDER BY name")).all())

    with filled.read() as session:
        session.execute(sa.text("SET LOCAL enable_hashjoin = off"))
        before = read_settings()
        version_search.find(session, sort="name")
        assert read_settings() == before
        with pytest.raises(errors.NotFound):
            version_search.find(session, "base:nowhere")
        assert read_settings() == before


def test_unusual_numbers_are_left_out_of_the_index(database: Database) -> None:
    numbers = {"huge": 10**400, "tiny": 1e-310, "text": "1", "yes": True, "none": None, "list": [1], "fine": 1}
    registry.add_version(database, metrics=numbers)
    assert len(find(database, "metric.fine=1").versions) == 1
    for name in ("huge", "text", "yes", "none", "list"):
        with pytest.raises(errors.NotFound, match=f"there is no metric '{name}'"):
            find(database, f"metric.{name}>-1e99")
