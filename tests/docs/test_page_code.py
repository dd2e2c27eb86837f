"""The code of the pages as type checkers see it: all blocks, each on its line."""

from __future__ import annotations

import re
from pathlib import Path

from scripts import page_code

ROOT = Path(__file__).parents[2]


def test_every_block_of_every_page_is_written(tmp_path: Path) -> None:
    page_code.write_page_code(tmp_path)
    written = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.py")}
    assert "plugins/finch_birds/median.py" in written
    for page in page_code.PAGES:
        for kind, code in re.findall(r"^```(python[^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            name = page.stem.lower()
            file = f"{name}/{kind.partition('file=')[2] or f'{name}_page.py'}"
            assert code in written[file], f"{page.name}: {code}"


def test_a_line_has_the_number_that_it_has_on_its_page(tmp_path: Path) -> None:
    page_code.write_page_code(tmp_path)
    page = (ROOT / "docs" / "training.md").read_text().splitlines()
    module = (tmp_path / "training" / "training_page.py").read_text().splitlines()
    assert [number for number, line in enumerate(module[1:], 2) if line and page[number - 1] != line] == []


def test_a_folder_of_earlier_code_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "old.py").write_text("")
    page_code.write_page_code(tmp_path / "pages")
    assert not (tmp_path / "pages" / "old.py").exists()
