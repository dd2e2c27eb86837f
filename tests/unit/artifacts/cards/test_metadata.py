from __future__ import annotations

import pytest

from finch_hub.artifacts.cards.metadata import split_front


@pytest.mark.parametrize(
    ("text", "front", "body"),
    [
        ("---\na: 1\n---\n\n# x\n", "a: 1", "# x\n"),
        ("---\na: 1\n---", "a: 1", ""),
        ("# x\n---\na: 1\n---\n", None, "# x\n---\na: 1\n---\n"),
        ("---\nno end\n", None, "---\nno end\n"),
        ("---\nA note.\n---\n# x\n", None, "---\nA note.\n---\n# x\n"),
        ("", None, ""),
    ],
)
def test_metadata_are_told_from_the_text(text: str, front: str | None, body: str) -> None:
    assert split_front(text) == (front, body)
