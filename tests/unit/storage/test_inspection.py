"""Inspections: each kind of damage is found and named, and a hub that is well has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import full_hub, registry

from finch_hub import errors, settings
from finch_hub.artifacts import gate
from finch_hub.artifacts.store import blob_path, tree_path
from finch_hub.registry import bases, datasets, tables, values
from finch_hub.registry.types import now
from finch_hub.specs.inspections import InspectionReport
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
    identity = gate.adapter_identity(stores.artifacts.fetch_tree(version.digest))
    assert inspect_version(version.evolve(identity=identity), stores).findings == ()


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
            with pytest.raises(errors.Damaged, match="restore the store from a backup"):
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
    assert any("adapter_versions 1: has a damaged value: spec" in finding for finding in found), found
    assert any("aliases" in finding and "moved_at" in finding for finding in found), found
