from __future__ import annotations

from support.services import Databases

from finch_hub.registry import deployment
from finch_hub.registry.database import Database


def test_each_database_has_an_id_that_stays(databases: Databases) -> None:
    found = []
    for _ in range(2):
        url = databases.empty()
        for _ in range(2):
            database = Database(url, allow_insecure=True)
            database.upgrade()
            with database.read() as session:
                found.append(deployment.find_id(session))
            database.close()
        databases.drop(url)
    first, again, second, again_second = found
    assert first == again != second == again_second
