"""Removals of a base beside what makes or brings back a version for it: one of the two is refused, in both orders."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import adapter_deletion, adapter_versions, bases, values
from finch_hub.registry.database import Database, Session
from finch_hub.specs.bundles import BundledBase
from finch_hub.specs.references import AdapterReference


def register(session: Session, base: values.Base) -> None:
    """Add a version as an import and a pull do."""
    held = bases.hold(session, base)
    create(session, held)


def restore(session: Session, base: values.Base) -> None:
    adapter_deletion.restore(session, AdapterReference("legal"), list_damage=lambda digest: ())


def unbundle(session: Session, base: values.Base) -> None:
    bundled = BundledBase(**base.model_dump(include=set(BundledBase.model_fields)))
    create(session, base.evolve(id=bases.find_or_add(session, bundled)))


def create(session: Session, base: values.Base) -> None:
    fields: dict[str, Any] = {"digest": "1" * 64, "identity": "1" * 64, "base": base}
    adapter_versions.create(session, name="new", kind="import", **fields)


CHANGES: dict[str, Callable[[Session, values.Base], None]] = {
    "import": register,
    "restore": restore,
    "unbundle": unbundle,
}


@pytest.fixture(params=[True, False], ids=["with a deleted version", "without versions"])
def base(database: Database, request: pytest.FixtureRequest) -> values.Base:
    """A base that can be removed. With a deleted version, its row stays."""
    if not request.param:
        return registry.add_base(database, "tiny")
    made = registry.add_version(database, "legal")
    registry.delete(database, "legal")
    return made.base


def change(database: Database, name: str, base: values.Base) -> None:
    with database.write() as session:
        CHANGES[name](session, base)


def remove(database: Database, base: values.Base) -> None:
    with database.write() as session:
        bases.remove(session, base.fingerprint)


def skip_restore_of_nothing(database: Database, name: str) -> None:
    if name == "restore":
        with database.read() as session:
            if not adapter_deletion.find(session).deletions:
                pytest.skip("there is nothing to restore")


@pytest.mark.parametrize("name", CHANGES)
def test_removal_waits_for_a_version_that_is_not_committed(database: Database, base: values.Base, name: str) -> None:
    skip_restore_of_nothing(database, name)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            CHANGES[name](session, base)
            removed = threads.submit(remove, database, base)
            concurrent.futures.wait([removed], timeout=1)
        with pytest.raises(errors.Conflict, match=r"cannot remove base tiny: adapter (new|legal)/1 needs it"):
            removed.result()


@pytest.mark.parametrize("name", CHANGES)
def test_version_waits_for_a_removal_that_is_not_committed(database: Database, base: values.Base, name: str) -> None:
    skip_restore_of_nothing(database, name)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            bases.remove(session, base.fingerprint)
            changed = threads.submit(change, database, name, base)
            concurrent.futures.wait([changed], timeout=1)
        if name == "unbundle":  # it adds the base of the bundle again, without files
            changed.result()
            assert registry.resolve(database, "new/1").base.fingerprint == base.fingerprint
        else:
            with pytest.raises(errors.Conflict, match="removed"):
                changed.result()
    with database.read() as session:
        present = {found.fingerprint for found in bases.find(session)}
        for page in (adapter_versions.find(session, "new"),) if name == "unbundle" else ():
            assert {version.base.fingerprint for version in page.versions} <= present


def test_registration_of_a_base_waits_for_its_removal_and_brings_it_back(database: Database, base: values.Base) -> None:
    with ThreadPoolExecutor(1) as threads:
        with database.write() as session:
            bases.remove(session, base.fingerprint)
            added = threads.submit(registry.add_base, database, "tiny")
            concurrent.futures.wait([added], timeout=1)
        assert added.result().fingerprint == base.fingerprint
