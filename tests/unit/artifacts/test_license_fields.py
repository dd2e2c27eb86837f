from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from finch_hub.artifacts.license_fields import find_license

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
        ("---\nlicense:\n\n# of the weights\n- mit\n---\n", ("mit", None)),
        ("---\nlicense: # of the weights\n- mit\n---\n", ("mit", None)),
        ("---\nlicense: 'none'\n---\n", ("none", None)),
        *(
            (f"---\nlicense: {value}\n---\n", (None, None))
            for value in (
                "null", "~", "None", "|", ">-", "[mit, apache-2.0]", "{a: b}", "&a mit", "*a", "!!str mit", "# none"
            )
        ),
        ("", (None, None)),
    ],
)  # fmt: skip
def test_license_is_read_from_the_metadata_of_the_card(
    tmp_path: Path, card: str, known: tuple[str | None, str | None]
) -> None:
    (tmp_path / "README.md").write_text(card, newline="")
    assert find_license(tmp_path, "birds/finch") == known


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"general.license": "apache-2.0"}, ("apache-2.0", None)),
        ({"general.license": "other", "general.license.name": "finch-terms", "general.license.link": TERMS},
         ("finch-terms", TERMS)),
        ({"general.name": "mit"}, (None, None)),
    ],
)  # fmt: skip
def test_license_of_a_gguf_file_is_read_from_its_header(
    tmp_path: Path, fields: dict[str, str], known: tuple[str | None, str | None]
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "finch.gguf", "llama")
    for name, text in fields.items():
        writer.add_string(name, text)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    (tmp_path / "README.md").write_text("---\nlicense: gpl\n---\n")
    assert find_license(tmp_path, str(tmp_path / "finch.gguf")) == known
    (tmp_path / "finch.gguf").write_bytes((tmp_path / "finch.gguf").read_bytes()[:20])
    assert find_license(tmp_path, str(tmp_path / "finch.gguf")) == (None, None)


def test_folder_without_a_card_has_no_license(tmp_path: Path) -> None:
    assert find_license(tmp_path, str(tmp_path)) == (None, None)
    (tmp_path / "README.md").mkdir()
    assert find_license(tmp_path, str(tmp_path)) == (None, None)
