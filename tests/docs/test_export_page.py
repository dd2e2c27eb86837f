"""docs/export.md: its snippets run, one after the other, on real folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.adapters import VARIANTS, save_adapter

from finch_hub.plugins.catalog import load_catalog

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


def test_the_snippets_run(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"^```python run\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(snippets) == PAGE.count("```python") == 4
    names = {
        "base": tiny_folder,
        "adapter": save_adapter(tiny_folder, tmp_path / "adapter", **VARIANTS["plain"]),
        "other": save_adapter(tiny_folder, tmp_path / "other", seed=1, **VARIANTS["patterns"]),
        "work": tmp_path,
    }
    capsys.readouterr()
    for snippet in snippets:
        exec(compile(snippet, "docs/export.md", "exec"), names)
    said = capsys.readouterr().out
    assert "14 weights changed" in said
    assert "same next token at 100%" in said
    assert (tmp_path / "for-llama" / "adapter.gguf").is_file()


def test_the_table_lists_every_format() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(
        load_catalog(entry_points=False).export_formats
    )
