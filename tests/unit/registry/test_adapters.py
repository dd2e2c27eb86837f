from __future__ import annotations

from support import registry

from finch_hub.registry import adapters
from finch_hub.registry.database import Database


def test_search_by_name_tag_and_base_finds_adapters(database: Database) -> None:
    registry.add_version(database, "medical", tags=["gold"])
    registry.add_version(database, "medical", base="small")
    registry.add_version(database, "medical", state="quarantined")
    registry.add_version(database, "legal")
    registry.delete_version(database, "legal", registry.add_version(database, "legal").number)
    registry.set_alias(database, "medical", "stable", 1)
    with database.read() as session:
        everything = adapters.find(session)
        assert [(found.name, found.versions, found.newest.number, found.latest) for found in everything] == [
            ("legal", 1, 1, 1),
            ("medical", 3, 3, 2),
        ]
        assert everything[1].aliases == {"stable": 1}
        assert [found.newest.reference for found in adapters.find(session, name="EDIC")] == ["medical/3"]
        assert [found.newest.reference for found in adapters.find(session, tag="gold")] == ["medical/1"]
        assert [found.newest.reference for found in adapters.find(session, base="small")] == ["medical/2"]
        assert len(adapters.find(session, base=registry.digest("tiny"))) == 2
        assert adapters.find(session, name="%") == []
        assert len(adapters.find(session, limit=1)) == 1
