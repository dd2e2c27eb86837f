from __future__ import annotations

import pytest
from support import registry

from finch_hub import errors
from finch_hub.registry import bases
from finch_hub.registry.database import Database


def test_a_base_is_known_by_its_fingerprint(database: Database) -> None:
    first = registry.add_base(database, "tiny")
    found = {"source": "org/tiny", "revision": "main", "path": "/cache/tiny"}
    known = {name: getattr(first, name) for name in ("fingerprint", "architecture", "parameters")}
    with database.write() as session:
        again = bases.add(session, name="org/tiny", **found, **known)
        assert again == first.evolve(**found)
        renamed = bases.add(session, name="small", rename=True, **found, **known)
        assert renamed == again.evolve(name="small")
        assert bases.find(session) == [renamed]


def test_a_chosen_name_is_one_base_s_only(database: Database) -> None:
    first = registry.add_base(database, "tiny")
    other = {"source": "/models/other", "fingerprint": registry.digest("other"), "architecture": "X", "parameters": 1}
    refused = pytest.raises(errors.Conflict, match=r"base name 'tiny' is taken.*--replace")
    with refused, database.write() as session:
        bases.add(session, name="tiny", rename=True, **other)
    with database.write() as session:
        newer = bases.add(session, name="tiny", rename=True, replace=True, **other)
        assert bases.get(session, "tiny") == newer
        assert bases.get(session, first.fingerprint) == first.evolve(name=first.fingerprint)
        assert bases.add(session, name="tiny", rename=True, **other) == newer, "it is its own"


def test_a_name_means_the_newest_base_that_has_it(database: Database) -> None:
    registry.add_base(database, "tiny")
    with database.write() as session:
        newer = bases.add(
            session,
            name="tiny",
            source="/models/tiny",
            fingerprint=registry.digest("other weights"),
            architecture="LlamaForCausalLM",
            parameters=1,
        )
        assert bases.get(session, "tiny") == newer
        assert bases.get(session, registry.digest("tiny")).parameters == 135_000_000
        with pytest.raises(errors.NotFound, match=r"no base 'tniy' .did you mean 'tiny'"):
            bases.get(session, "tniy")
