"""Lists in terminals of several widths: no line is too long, and no word is split or lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import registry

from finch_hub.registry.database import Database

from .conftest import Run, enter_worker

LISTS = (
    ("adapters", "list"),
    ("adapters", "find"),
    ("adapters", "versions", "medical"),
    ("adapters", "alias-history", "medical"),
    ("jobs", "list"),
    ("worker", "list"),
    ("bases", "list"),
    ("datasets", "list"),
    ("audit",),
    ("plugins", "list"),
)


@pytest.fixture
def filled(run: Run, database: Database, data: Path) -> None:
    """A hub with something in each list."""
    for name in ("medical", "legal"):
        registry.add_version(database, name, metrics={"loss_before": 3.2109, "loss_after": 2.1098})
    registry.set_alias(database, "medical", "best", 1)
    run("adapters", "tag", "medical/1", "meadow", "owner=ana")
    run("datasets", "add", data, "--name", "quiz")
    enter_worker(database)
    registry.submit(database, spec=registry.merge_spec("medical/1", "legal/1"))


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_list_fits_each_width(run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    shown: dict[int, list[list[str]]] = {}
    for width in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        ran = run(*words)
        assert ran.status == 0, ran.err
        lines = [line.rstrip() for line in ran.out.splitlines()]
        assert all(len(line) <= width for line in lines), (width, lines)
        shown[width] = [line.split() for line in lines]
    rule = next(place for place, line in enumerate(shown[200]) if line and set(line[0]) == {"─"})
    cells = {word for line in shown[200][rule + 1 :] for word in line if len(word) < 58} - {"-"}
    assert cells
    for width in (60, 80):
        assert cells - {word for line in shown[width] for word in line} == set(), width
