"""Inspections: each kind of damage is found and named, and a hub that is well has none."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import full_hub, registry

from finch_hub import errors, settings
from finch_hub.artifacts import gate
from finch_hub.artifacts.store import blob_path, tree_path
from finch_hub.registry import artifact_references, bases, datasets, tables, values
from finch_hub.registry.database import Session
from finch_hub.registry.types import now
from finch_hub.specs.inspections import InspectionReport
from finch_hub.specs.value import JsonObject
from finch_hub.storage import inspection
from finch_hub.storage.inspection import inspect_hub, inspect_version
from finch_hub.storage.stores import Stores, open_stores

ROWS = b'{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Ho"}]}\n'


@pytest.fixture
def stores(database_url: str, tmp_path: Path) -> Iterator[Stores]:
    opened = open_stores(settings.load(home=tmp_path / "home", database_url=database_url, allow_insecure=True))
    opened.artifacts.check()
    yield opened
    opened.database.close()


@pytest.fixture
def version(stores: Stores, tmp_path: Path) -> values.AdapterVersion:
    """A version with an alias, in a hub with a data set."""
    with stores.database.write() as session:
        base = bases.add(session, registry.describe_base("tiny"))
    made = full_hub.add_version(stores, tmp_path, "legal", base, text="legal")
    registry.set_alias(stores.database, "legal", "best", 1)
    digest = stores.artifacts.put(ROWS)
    with stores.database.write() as session:
        datasets.add(session, digest=digest, format="messages", examples=1, size=len(ROWS), name="laws")
    return made


def describe(report: InspectionReport) -> list[str]:
    return [str(finding) for finding in report.damage]


def overwrite(file: Path) -> None:
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def damage_artifact(stores: Stores, path: str, damage: Callable[[Path], None]) -> Callable[[], None]:
    """Damage a file of the store, and return what undoes it."""
    file = stores.settings.home / "artifacts" / path
    kept = file.read_bytes()
    damage(file)

    def undo() -> None:
        file.unlink(missing_ok=True)
        file.write_bytes(kept)

    return undo


def test_hub_that_is_well_has_no_findings(stores: Stores, version: values.AdapterVersion) -> None:
    report = inspect_hub(stores)
    assert report.findings == ()
    assert (report.trees, report.files) == (1, 1 + len(stores.artifacts.tree(version.digest)))
    assert report.bytes > len(ROWS)
    assert (report.rows > 0) == stores.database.is_sqlite
    report.raise_damage("the hub")
    assert inspect_version(version, stores).findings == ()


@pytest.mark.parametrize(
    ("damage", "what"), [(overwrite, "now has the SHA-256"), (Path.unlink, "there is no artifact")]
)
def test_each_file_of_a_version_is_held_against_its_hash(
    stores: Stores, version: values.AdapterVersion, damage: Callable[[Path], None], what: str
) -> None:
    for name, entry in stores.artifacts.tree(version.digest).items():
        undo = damage_artifact(stores, blob_path(entry.digest), damage)
        for report in (inspect_hub(stores), inspect_version(version, stores)):
            (found,) = describe(report)
            assert found.startswith(f"adapter legal/1: {name}: ")
            assert what in found
            with pytest.raises(
                errors.Damaged, match="from `artifacts` of a backup to the store, or delete this version and"
            ):
                report.raise_damage("the hub")
        undo()
    assert inspect_hub(stores).findings == ()


@pytest.mark.parametrize("damage", [overwrite, Path.unlink])
def test_lists_of_files_and_data_sets_are_held_against_their_hashes(
    stores: Stores, version: values.AdapterVersion, damage: Callable[[Path], None]
) -> None:
    with stores.database.read() as session:
        (data,) = datasets.find(session)
    damage_artifact(stores, tree_path(version.digest), damage)
    damage_artifact(stores, blob_path(data.digest), damage)
    first, second = describe(inspect_hub(stores))
    assert first.startswith("adapter legal/1: the list of its files cannot be read: ")
    assert second.startswith("data set laws: ")


def test_files_of_another_identity_are_found(stores: Stores, version: values.AdapterVersion) -> None:
    identity = gate.adapter_identity(stores.artifacts.fetch_tree(version.digest))
    (found,) = describe(inspect_version(version.evolve(identity="0" * 64), stores))
    assert f"its files have the identity {identity}, and the registry 0000" in found
    registry.change_rows(stores.database, f"UPDATE adapter_versions SET identity = '{'0' * 64}'")
    assert describe(inspect_hub(stores)) == [found]


def test_identities_of_many_versions_are_read_in_batches(
    stores: Stores, version: values.AdapterVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a million versions together would take 458 MiB."""
    for number in range(4):
        full_hub.add_version(stores, tmp_path, f"other{number}", version.base, text=f"other {number}")
    registry.change_rows(stores.database, f"UPDATE adapter_versions SET identity = '{'0' * 64}' WHERE id IN (1, 3, 5)")
    asked: list[int] = []
    find = artifact_references.find_identities

    def note(session: Session, trees: Collection[str]) -> dict[str, set[str]]:
        asked.append(len(trees))
        return find(session, trees)

    monkeypatch.setattr(inspection, "_BATCH", 2)
    monkeypatch.setattr(artifact_references, "find_identities", note)
    found = {text.partition(":")[0] for text in describe(inspect_hub(stores))}
    assert found == {f"adapter {name}/1" for name in (version.name, "other1", "other3")}
    assert asked == [2, 2, 1]


def test_damaged_identities_are_reported_once(
    stores: Stores, version: values.AdapterVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not stores.database.is_sqlite:
        pytest.skip("the pages of a file of SQLite")
    for number in range(2):
        full_hub.add_version(stores, tmp_path, f"other{number}", version.base, text=f"other {number}")
    with stores.database.read() as session:
        find_page = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_adapter_versions_digest'"
        page = session.scalars(sa.text(find_page)).one()
    damage_page(stores, page)
    queries: list[int] = []

    def read_damaged(session: Session, trees: Collection[str]) -> dict[str, set[str]]:
        queries.append(len(trees))
        return find(session, trees)

    find = artifact_references.find_identities
    monkeypatch.setattr(inspection, "_BATCH", 1)
    monkeypatch.setattr(artifact_references, "find_identities", read_damaged)
    found = describe(inspect_hub(stores))
    assert (len([text for text in found if "the identities of versions" in text]), queries) == (1, [1])


def test_version_with_the_files_of_another_is_found(
    stores: Stores, version: values.AdapterVersion, tmp_path: Path
) -> None:
    other = full_hub.add_version(stores, tmp_path, "other", version.base, text="other")
    registry.delete(stores.database, "other/1")
    registry.change_rows(stores.database, f"UPDATE adapter_versions SET digest = '{version.digest}' WHERE id = 2")
    (found,) = describe(inspect_hub(stores))
    assert found.startswith(
        f"adapter other/1: its files have the identity {version.identity}, and the registry {other.identity}"
    )


def test_files_of_deleted_versions_are_read_until_a_collection_removes_them(
    stores: Stores, version: values.AdapterVersion, tmp_path: Path
) -> None:
    full_hub.add_evidence(stores, version)
    with stores.database.write() as session:
        session.execute(sa.delete(tables.Alias))
    registry.delete(stores.database, "legal/1")
    weights = stores.artifacts.tree(version.digest)["adapter_model.safetensors"].digest
    shutil.copytree(stores.settings.home / "artifacts", tmp_path / "backup")
    damage_artifact(stores, blob_path(weights), overwrite)
    (found,) = describe(inspect_hub(stores))
    assert found.startswith("deleted adapter legal/1: adapter_model.safetensors: blob ")
    assert found.endswith("or run `finch-hub adapters purge legal/1`)")
    path = found.partition("(copy ")[2].partition(" from `artifacts` of a backup")[0]
    stored = stores.settings.home / "artifacts" / path
    stored.unlink()
    assert describe(inspect_hub(stores)) == []  # as a collection leaves them
    shutil.copyfile(tmp_path / "backup" / path, stored)
    assert inspect_hub(stores).findings == ()
    damage_artifact(stores, blob_path(hashlib.sha256(full_hub.SAMPLES).hexdigest()), overwrite)
    (found,) = describe(inspect_hub(stores))
    assert found.startswith("deleted sample answers of adapter legal/1: ")


def test_circle_of_a_lineage_is_found_and_named(stores: Stores, version: values.AdapterVersion, tmp_path: Path) -> None:
    for name, parent in (("child", version.reference), ("leaf", "child/1")):
        full_hub.add_version(stores, tmp_path, name, version.base, parents=(parent,), text=name)
    assert inspect_hub(stores).findings == ()
    registry.change_rows(
        stores.database, "INSERT INTO lineage (version_id, position, parent_id, weight) VALUES (1, 0, 2, 1.0)"
    )
    (found,) = describe(inspect_hub(stores))
    assert found.startswith("lineage: has a circle of legal/1, child/1 (restore a backup into a new hub")


@pytest.mark.parametrize(
    ("statement", "where", "what"),
    [
        ("UPDATE adapter_versions SET spec = '[1]'", "row 1 of adapter_versions", "spec is not a JSON object"),
        ("UPDATE adapter_versions SET metrics = '[2]'", "row 1 of adapter_versions", "metrics is not a JSON object"),
        ("UPDATE adapter_versions SET environment = '3'", "row 1 of adapter_versions", "environment is not a JSON"),
        ("UPDATE adapter_versions SET spec = '{\"system\":5}'", "adapter legal/1", "spec.system is not a text"),
        ('UPDATE adapter_versions SET metrics = \'{"loss_after":"x"}\'', "adapter legal/1", "is not a number"),
        ("UPDATE evidence SET document = '{\"kind\":5}'", "adapter legal/1", "its evidence cannot be read"),
        ("UPDATE jobs SET labels = '{}'", "row 1 of jobs", "labels is not a JSON array"),
        ("UPDATE jobs SET spec = '{}'", "job ", "its specification cannot be read: it names another kind of job"),
        ('UPDATE jobs SET spec = \'{"kind":"merge"}\'', "job ", "its specification cannot be read: missing"),
        ("DELETE FROM bases", "row 1 of adapter_versions", "base_id 1 names a row of bases that does not exist"),
        ("DELETE FROM jobs", "row ", "names a row of jobs that does not exist"),
    ],
)
def test_rows_that_no_reader_can_use_are_found(
    stores: Stores, version: values.AdapterVersion, statement: str, where: str, what: str
) -> None:
    full_hub.add_evidence(stores, version)
    registry.submit(stores.database, spec=registry.merge_spec("legal/1"))

    def explain_spec(kind: str, spec: JsonObject) -> str | None:
        return None if "parents" in spec and kind == "merge" else "missing"

    assert inspect_hub(stores, explain_spec=explain_spec).findings == ()
    registry.change_rows(stores.database, statement)
    found = describe(inspect_hub(stores, explain_spec=explain_spec))
    assert any(finding.startswith(where) and what in finding for finding in found), found


def damage_page(stores: Stores, page: int) -> None:
    """Overwrite the beginning of a page of a file of SQLite."""
    file = Path(stores.database.url.database or "")
    stores.database.close()
    data = bytearray(file.read_bytes())
    data[(page - 1) * 4096 : (page - 1) * 4096 + 64] = b"\xff" * 64
    file.write_bytes(data)


def test_damaged_pages_hide_neither_other_rows_nor_files(stores: Stores, version: values.AdapterVersion) -> None:
    if not stores.database.is_sqlite:
        pytest.skip("the pages of a file of SQLite")
    with stores.database.write() as session:
        pages = {
            name: session.scalar(sa.text(f"SELECT rootpage FROM sqlite_master WHERE name = '{name}'"))
            for name in ("datasets", "adapter_versions", "deployment")
        }
        session.execute(sa.text("UPDATE aliases SET moved_at = 'yesterday'"))
    weights = stores.artifacts.tree(version.digest)["adapter_model.safetensors"].digest
    damage_artifact(stores, blob_path(weights), overwrite)
    file = Path(stores.database.url.database or "")
    stores.database.close()
    kept = file.read_bytes()
    for name, page in pages.items():
        stores.database.close()
        file.write_bytes(kept)
        damage_page(stores, page)
        found = describe(inspect_hub(stores))
        assert any(finding.startswith("database: ") for finding in found), (name, found)
        assert any("of aliases: has a damaged value: moved_at" in finding for finding in found), (name, found)
        assert any(f"blob {weights} now has the SHA-256" in finding for finding in found), (name, found)
        assert not any(finding.kind == "orphan" for finding in inspect_hub(stores).findings)


def test_values_that_sqlite_stores_in_any_column_end_no_inspection(
    stores: Stores, version: values.AdapterVersion
) -> None:
    if not stores.database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    for column in (
        "adapters.created_at",
        "bases.fingerprint",
        "bases.parameters",
        "datasets.digest",
        "adapter_versions.digest",
    ):
        table, _, name = column.partition(".")
        for value in ("x'ff00'", "'zzz'"):
            with stores.database.read() as session:
                before = session.execute(sa.text(f"SELECT {name} FROM {table}")).scalar_one()
            registry.change_rows(stores.database, f"UPDATE {table} SET {name} = {value}")
            assert describe(inspect_hub(stores)), (column, value)
            with stores.database.write() as session:
                session.execute(sa.text(f"UPDATE {table} SET {name} = :before"), {"before": before})
    assert describe(inspect_hub(stores)) == []


@pytest.mark.usefixtures("version")
def test_files_that_nobody_refers_to_are_no_damage(stores: Stores) -> None:
    stores.artifacts.put(b"of nobody")
    report = inspect_hub(stores)
    (orphan,) = report.findings
    assert (orphan.kind, orphan.what) == ("orphan", "nobody refers to 1 files of 9 bytes")
    report.raise_damage("the hub")


def test_base_whose_files_changed_or_are_elsewhere_is_found(
    stores: Stores, version: values.AdapterVersion, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for name, place in (("changed", changed), ("away", tmp_path / "away")):
        base = registry.describe_base(name).evolve(path=str(place))
        with stores.database.write() as session:
            bases.add(session, base)
    found = {finding.where: finding for finding in inspect_hub(stores).findings}
    assert found.keys() == {"base changed", "base away"}
    assert (found["base changed"].kind, found["base away"].kind) == ("damage", "orphan")
    assert "finch-hub bases add /models/away" in found["base away"].fix


def test_rows_that_contradict_one_another_are_found(stores: Stores, version: values.AdapterVersion) -> None:
    other = registry.add_version(stores.database, "other")
    registry.add_version(stores.database, "away", base="removed")
    registry.set_alias(stores.database, "other", "best", 1)
    aliases, adapters, versions = (table.__table__ for table in (tables.Alias, tables.Adapter, tables.AdapterVersion))
    bases_, is_other = tables.Base.__table__, adapters.c.name == other.name
    with stores.database.write() as session:
        of_other = sa.select(adapters.c.id).where(is_other).scalar_subquery()
        first = sa.select(versions.c.id).where(versions.c.adapter_id != of_other).order_by(versions.c.id).limit(1)
        session.execute(sa.update(versions).where(versions.c.adapter_id == of_other).values(deleted_at=now()))
        session.execute(
            sa.insert(aliases).values(adapter_id=of_other, name="strange", version_id=first.scalar_subquery())
        )
        session.execute(sa.update(adapters).where(is_other).values(versions_made=0))
        session.execute(sa.update(bases_).where(bases_.c.name == "removed").values(removed_at=now()))
    found = describe(inspect_hub(stores))
    for text in (
        "alias other@strange: points at a version of another adapter",
        "alias other@best: points at other/1, which is deleted (run `finch-hub adapters alias other best --delete`",
        "adapter other: counts 0 versions, and has a version 1",
        "adapter away/1: its base was removed (run `finch-hub bases add /models/removed`)",
    ):
        assert any(finding.startswith(text) for finding in found), (text, found)


@pytest.mark.usefixtures("version")
def test_damaged_values_of_a_file_of_sqlite_are_found(stores: Stores) -> None:
    if not stores.database.is_sqlite:
        pytest.skip("PostgreSQL stores no damaged values")
    with stores.database.write() as session:
        session.execute(sa.text("UPDATE adapter_versions SET spec = '{damaged'"))
        session.execute(sa.text("UPDATE aliases SET moved_at = 'yesterday'"))
    found = describe(inspect_hub(stores))
    assert any("row 1 of adapter_versions: has a damaged value: spec" in finding for finding in found), found
    assert any("aliases" in finding and "moved_at" in finding for finding in found), found
