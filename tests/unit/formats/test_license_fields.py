from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub.formats.license_fields import find_license

TERMS = "https://birds.example/terms"


@pytest.mark.parametrize(
    ("card", "known"),
    [
        ("---\nlicense: apache-2.0\n---\n# Birds\n", ("apache-2.0", None)),
        ('---\r\nlicense: "MIT" # old\r\ntags:\r\n- x\r\n---\r\n', ("mit", None)),
        ("---\nlicense:\n- mit\ntags:\n- license\n---\n", ("mit", None)),
        ("---\nlicense: [mit]\n---\n", ("mit", None)),
        ("---\nlicense:\n- mit\n- gpl\n---\n", (None, None)),
        (f"---\nlicense: other\nlicense_name: 'finch-terms'\nlicense_link: {TERMS}\n---\n", ("finch-terms", TERMS)),
        ("---\nlicense: other\n---\n", (None, None)),
        ("---\nlicense: unknown\n---\n", (None, None)),
        ("---\n  license: mit\ncard:\n  license: mit\n---\n", (None, None)),
        ("---\ntitle: x\n---\nlicense: mit\n", (None, None)),
        ("# Birds\n\nlicense: mit\n", (None, None)),
        ("---\nlicense: \x1b[2J\n---\n", (None, None)),
        ("", (None, None)),
    ],
)
def test_license_is_read_from_the_metadata_of_the_card(
    tmp_path: Path, card: str, known: tuple[str | None, str | None]
) -> None:
    (tmp_path / "README.md").write_text(card, newline="")
    assert find_license(tmp_path, "birds/finch") == known


def test_folder_without_a_card_has_no_license(tmp_path: Path) -> None:
    assert find_license(tmp_path, str(tmp_path)) == (None, None)
    (tmp_path / "README.md").mkdir()
    assert find_license(tmp_path, str(tmp_path)) == (None, None)
