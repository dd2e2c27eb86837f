"""`finch-hub db`."""

from __future__ import annotations

from .conftest import Run


def test_database_is_upgraded_and_checked(run: Run) -> None:
    assert run("db", "check").status == 7
    assert "from empty to schema" in run("db", "upgrade").out
    assert "is already at schema" in run("db", "upgrade").out
    assert run("db", "check", "--json").json["revision"]
