"""Lineages as trees, and as Mermaid."""

from __future__ import annotations

from finch_hub.display.lineage import draw_lineage, format_mermaid
from finch_hub.registry import values

from .conftest import Drawn
from .test_adapters import make_version


def test_lineage_shows_ancestors_with_their_weights(drawn: Drawn) -> None:
    link = values.ParentLink(version="meadow/1", parent="birds/1", weight=0.5)
    child = values.LineageGraph(versions=(make_version("meadow", kind="compose"), make_version("birds")), links=(link,))
    lines = drawn(draw_lineage(child)).splitlines()
    assert lines[0].strip() == "meadow/1 (compose)"
    assert "birds/1 x 0.5 (train)" in lines[1]


def test_lineage_shows_once_what_a_shared_ancestor_was_made_from(drawn: Drawn) -> None:
    pairs = [("d", "c"), ("d", "b"), ("c", "b"), ("b", "a")]
    links = tuple(values.ParentLink(version=f"{one}/1", parent=f"{other}/1", weight=1) for one, other in pairs)
    graph = values.LineageGraph(versions=tuple(make_version(name) for name in "dcba"), links=links)
    lines = [line.strip("│├└─ ") for line in drawn(draw_lineage(graph)).splitlines()]
    assert [line.replace(" (train)", "") for line in lines] == [
        "d/1", "c/1 x 1", "b/1 x 1", "a/1 x 1", "b/1 x 1, as above",
    ]  # fmt: skip


def make_family() -> values.LineageGraph:
    """Return birds, made from finches and bees, and the meadow that was made from it."""
    links = (("birds", "finches", 1.0), ("birds", "bees", 0.5), ("meadow", "birds", 1.0))
    return values.LineageGraph(
        versions=tuple(make_version(name) for name in ("birds", "finches", "bees", "meadow")),
        links=tuple(values.ParentLink(version=f"{v}/1", parent=f"{p}/1", weight=weight) for v, p, weight in links),
    )


def test_descendants_are_a_tree_of_their_own(drawn: Drawn) -> None:
    lines = [line.strip("│├└─ ").replace(" (train)", "") for line in drawn(draw_lineage(make_family())).splitlines()]
    assert lines == [
        "birds/1", "finches/1 x 1", "bees/1 x 0.5", "birds/1, from which were made:", "meadow/1 x 1 of birds/1",
    ]  # fmt: skip


def test_mermaid_has_an_arrow_from_each_parent() -> None:
    assert format_mermaid(make_family()) == [
        "flowchart TD",
        '    v0["birds/1 (train)"]',
        '    v1["finches/1 (train)"]',
        '    v2["bees/1 (train)"]',
        '    v3["meadow/1 (train)"]',
        "    v1 --> v0",
        "    v2 -->|0.5| v0",
        "    v0 --> v3",
        "    style v0 stroke-width:3px",
    ]
