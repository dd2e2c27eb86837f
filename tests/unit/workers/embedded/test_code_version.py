from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.plugins import install

from finch_hub.workers.embedded import code_version


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two files, in the place of this one."""
    (tmp_path / "deep").mkdir()
    for file in (tmp_path / "errors.py", tmp_path / "deep" / "loop.py"):
        file.write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(code_version, "errors", SimpleNamespace(__file__=str(tmp_path / "errors.py")))
    return tmp_path


def test_code_has_one_version_until_a_file_changes(package: Path) -> None:
    before = code_version.current()
    assert code_version.current() == before
    (package / "notes.txt").write_text("not code", encoding="utf-8")
    assert code_version.current() == before
    file = package / "deep" / "loop.py"
    file.write_text("a = 23\n", encoding="utf-8")
    changed = code_version.current()
    assert changed != before
    os.utime(file, ns=(1, 1))  # an edit that keeps the size
    assert code_version.current() != changed
    file.unlink()
    assert code_version.current() not in (before, changed)


@pytest.mark.usefixtures("package")
def test_code_has_another_version_with_another_plugin_or_a_change_of_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions = [code_version.current()]
    monkeypatch.syspath_prepend(tmp_path / "site")
    file = install(tmp_path / "site", "birds", "a = 1\n")
    versions.append(code_version.current())
    install(tmp_path / "site", "bees", "")
    versions.append(code_version.current())
    file.write_text("a = 23\n", encoding="utf-8")
    versions.append(code_version.current())
    assert len(set(versions)) == len(versions)
    assert code_version.current() == versions[-1]


def test_all_names_of_one_python_run_the_same_code(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = code_version.current()
    (tmp_path / "link").symlink_to(sys.prefix)
    monkeypatch.setattr("sys.prefix", str(tmp_path / "link"))
    assert code_version.current() == before
    monkeypatch.setattr("sys.executable", str(Path(sys.executable).with_name("python3.99")))
    assert code_version.current() == before
    monkeypatch.setattr("sys.prefix", "/other/environment")
    assert code_version.current() != before
