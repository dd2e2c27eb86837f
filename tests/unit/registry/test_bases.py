from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import bases
from finch_hub.registry.database import Database


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


def test_name_of_several_bases_means_the_newest(database: Database) -> None:
    registry.add_base(database, "tiny")
    with database.write() as session:
        newer = bases.add(session, registry.describe_base("tiny", fingerprint=registry.digest("other"), parameters=1))
        assert bases.get(session, "tiny") == newer
        assert bases.get(session, registry.digest("tiny")).parameters == 135_000_000
        with pytest.raises(errors.NotFound, match=r"no base 'tniy' .did you mean 'tiny'"):
            bases.get(session, "tniy")


def test_public_id_is_changed_by_another_and_kept_without_one(database: Database) -> None:
    registry.add_base(database, "tiny")
    for given, kept in (("birds/tiny", "birds/tiny"), (None, "birds/tiny"), ("birds/finch-1b", "birds/finch-1b")):
        with database.write() as session:
            assert bases.add(session, registry.describe_base("tiny", public_id=given)).public_id == kept
