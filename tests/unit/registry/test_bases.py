from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import bases
from finch_hub.registry.database import Database
from finch_hub.specs.bases import MAX_NAME


def test_known_fingerprint_updates_the_location_and_keeps_the_name(database: Database) -> None:
    first = registry.add_base(database, "tiny")
    location = {"source": "org/tiny", "revision": "main", "path": "/cache/tiny"}
    with database.write() as session:
        again = bases.add(session, registry.describe_base("org/tiny", fingerprint=first.fingerprint, **location))
        assert again == first.evolve(**location)
        chosen = registry.describe_base("small", fingerprint=first.fingerprint, **location)
        with pytest.raises(errors.Conflict, match=r"already base 'tiny'.*replace"):
            bases.add(session, chosen, rename=True)
        renamed = bases.add(session, chosen, rename=True, replace=True)
        assert renamed == again.evolve(name="small")
        assert bases.find(session) == [renamed]


def test_chosen_name_of_another_base_is_refused_unless_replaced(database: Database) -> None:
    first = registry.add_base(database, "tiny")
    other = registry.describe_base("tiny", source="/models/other", fingerprint=registry.digest("other"))
    refused = pytest.raises(errors.Conflict, match=r"base name 'tiny' is taken.*replace=True")
    with refused, database.write() as session:
        bases.add(session, other, rename=True)
    with database.write() as session:
        newer = bases.add(session, other, rename=True, replace=True)
        assert bases.get(session, "tiny") == newer
        assert bases.get(session, first.fingerprint) == first.evolve(name=first.fingerprint)
        assert bases.add(session, other, rename=True) == newer, "the base has the name already"


def test_new_state_of_a_source_takes_its_name(database: Database) -> None:
    source = {"source": "org/tiny"}
    with database.write() as session:
        old = bases.add(session, registry.describe_base("org/tiny", revision="a" * 40, **source))
        moved = registry.describe_base("org/tiny", fingerprint=registry.digest("new"), revision="b" * 40, **source)
        new = bases.add(session, moved)
        assert bases.get(session, "org/tiny") == new
        assert bases.get(session, old.fingerprint) == old.evolve(name=old.fingerprint)
        assert bases.find_source(session, "org/tiny", None) == new
        assert bases.find_source(session, "org/tiny", "a" * 40) == old.evolve(name=old.fingerprint)
        assert bases.find_source(session, "org/tiny", "c" * 40) is None
        # A job of the earlier state takes nothing back; a user does.
        assert bases.add(session, registry.describe_base("org/tiny", revision="a" * 40, **source)).name != "org/tiny"
        back = bases.add(session, registry.describe_base("org/tiny", revision="a" * 40, **source), rename=True)
        assert back == old
        assert bases.find_source(session, "org/tiny", None) == old
        assert bases.get(session, new.fingerprint).name == new.fingerprint
        with pytest.raises(errors.NotFound, match=r"no base 'org/tny' .did you mean 'org/tiny'"):
            bases.get(session, "org/tny")


def test_source_with_the_chosen_name_of_another_base_takes_nothing(database: Database) -> None:
    chosen = registry.add_base(database, "gpt2")
    fetched = registry.describe_base("gpt2", source="gpt2", fingerprint=registry.digest("other"))
    with database.write() as session:
        assert bases.add(session, fetched).name == fetched.fingerprint
        assert bases.get(session, "gpt2") == chosen


def test_public_id_is_changed_by_another_and_kept_without_one(database: Database) -> None:
    registry.add_base(database, "tiny")
    for given, kept in (("birds/tiny", "birds/tiny"), (None, "birds/tiny"), ("birds/finch-1b", "birds/finch-1b")):
        with database.write() as session:
            assert bases.add(session, registry.describe_base("tiny", public_id=given)).public_id == kept


def test_base_with_the_longest_source_is_not_removed_under_a_job(database: Database) -> None:
    source = "/models/".ljust(MAX_NAME, "a")
    with database.write() as session:
        bases.add(session, registry.describe_base("long", source=source))
    job = registry.submit(database, spec=registry.train_spec(base=source))
    with database.write() as session, pytest.raises(errors.Conflict, match=f"job {job.id} needs it"):
        bases.remove(session, "long")
