"""`finch-hub datasets`."""

from __future__ import annotations

from pathlib import Path

from .conftest import Run


def test_data_sets_are_added_listed_and_purged(run: Run, data: Path) -> None:
    assert run("datasets", "add", data, "--name", "birds").out == "Added data set birds: 10 examples\n"
    assert "birds" in run("datasets", "list").out
    purged = run("datasets", "purge", "birds")
    assert purged.out == "Deleted the text of data set birds. Its hash and figures remain.\n"
    (purged,) = run("datasets", "list", "--json").json
    assert purged["purged_at"] is not None
