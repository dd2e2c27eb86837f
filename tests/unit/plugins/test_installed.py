"""Installed plugins: found one by one, and their code is known by its files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.plugins import install

from finch_hub.plugins.installed import InstalledPlugin, find_installed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def find(name: str) -> InstalledPlugin:
    return next(plugin for plugin in find_installed()[0] if plugin.name == name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("entry_points.txt", b"[finch_hub]\nnot an entry point\n"),
        ("entry_points.txt", b"[finch_hub]\nplugin = a\0b\n"),
        ("entry_points.txt", b"[finch_hub]\na\0b = plugin\n"),
        ("RECORD", b"\xff,,\n"),
        ("RECORD", b"a.py,b,c,d,e\n"),
        ("RECORD", b"a.py,no hash,no number\n"),
    ],
)
def test_torn_metadata_disable_only_their_own_distribution(folder: Path, file: str, content: bytes) -> None:
    install(folder, "torn", "")
    (folder / "torn-1.0.dist-info" / file).write_bytes(content)
    install(folder, "whole", "")
    plugins, problems = find_installed()
    names = [plugin.name for plugin in plugins]
    assert ("whole" in names, "torn" in names) == (True, False)
    (problem,) = problems
    assert problem.where == "plugin torn"
    assert "its metadata cannot be read" in problem.what


@pytest.mark.parametrize(
    ("file", "content"), [("RECORD", b"a\0b.py,,\n"), ("direct_url.json", b"[" * 100_000), ("direct_url.json", b"7")]
)
def test_odd_metadata_leave_the_hash_of_the_code(folder: Path, file: str, content: bytes) -> None:
    install(folder, "odd", "")
    (folder / "odd-1.0.dist-info" / file).write_bytes(content)
    assert find("odd").hash_code()


@pytest.mark.parametrize("file", ["METADATA", "entry_points.txt", "RECORD", "direct_url.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_metadata_that_are_no_file_disable_only_their_own_distribution(folder: Path, file: str, kind: str) -> None:
    install(folder, "torn", "")
    place = folder / "torn-1.0.dist-info" / file
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    install(folder, "whole", "")
    plugins, problems = find_installed()
    names = [plugin.name for plugin in plugins]
    assert ("whole" in names, "torn" in names) == (True, False)
    (problem,) = problems
    assert "torn" in problem.where
    assert problem.what.endswith(f"{file}: is not a regular file")


@pytest.mark.parametrize("content", [b"", b"Version: 1\n\nName: x\n", b"\0\n", b"Name:\n"])
def test_distribution_without_a_name_has_that_of_its_folder(folder: Path, content: bytes) -> None:
    for name in ("odd", "even"):
        install(folder, name, "")
        (folder / f"{name}-1.0.dist-info" / "METADATA").write_bytes(content)
    assert {"odd-1.0", "even-1.0"} <= {plugin.name for plugin in find_installed()[0]}


def test_metadata_that_are_not_utf_8_disable_only_their_own_distribution(folder: Path) -> None:
    install(folder, "odd", "")
    (folder / "odd-1.0.dist-info" / "METADATA").write_bytes(b"Name: \xff\n")
    install(folder, "whole", "")
    plugins, (problem,) = find_installed()
    assert "whole" in [plugin.name for plugin in plugins]
    assert problem.where == f"distribution {folder / 'odd-1.0.dist-info'}"
    assert "UnicodeDecodeError" in problem.what


def test_distribution_that_is_installed_twice_in_one_folder_is_a_problem(folder: Path) -> None:
    install(folder, "birds", "")
    shutil.copytree(folder / "birds-1.0.dist-info", folder / "birds-1.1.dist-info")
    plugins, problems = find_installed()
    assert [plugin.name for plugin in plugins].count("birds") == 1
    (problem,) = problems
    assert problem.what == f"is installed twice in {folder}, and one of the two is used"


def test_first_of_two_distributions_with_one_name_counts(folder: Path, tmp_path: Path) -> None:
    install(folder, "My_Birds", "")
    install(tmp_path / "other", "my-birds", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path / "other")
        assert [p.name for p in find_installed()[0] if "irds" in p.name] == ["my-birds"]


def test_name_of_a_distribution_is_printable(folder: Path) -> None:
    install(folder, "odd", "")
    (folder / "odd-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: o\x1b[31md\nVersion: 1\x07\n")
    odd = next(plugin for plugin in find_installed()[0] if plugin.name.startswith("o"))
    assert (odd.name, odd.version) == ("o\\x1b[31md", "1\\x07")


def test_code_changes_with_each_file_of_the_plugin(folder: Path) -> None:
    file = install(folder, "birds", "a = 1\n")
    helper = folder / "helper_of_birds.py"
    helper.write_text("a = 1\n")
    record = folder / "birds-1.0.dist-info" / "RECORD"
    record.write_text(f"{file.name},,\nhelper_of_birds.py,,\nhelper_of_birds.pyc,,\ngone.py,,\n")
    codes = [find("birds").hash_code()]
    (folder / "helper_of_birds.pyc").write_text("bytes of an import")
    (folder / "stranger.py").write_text("of another distribution")
    assert find("birds").hash_code() == codes[0]
    for changed in (file, helper):
        changed.write_text("a = 23\n")
        codes.append(find("birds").hash_code())
    os.utime(helper, ns=(1, 1))  # an edit that keeps the size
    codes.append(find("birds").hash_code())
    assert len(set(codes)) == len(codes)


def test_code_of_an_editable_installation_is_that_of_its_project(folder: Path, tmp_path: Path) -> None:
    install(folder, "birds", "a = 1\n", point="[finch_hub]\nplugin = somewhere_else\n")
    project = tmp_path / "my project"
    kernels = project / "src" / "birds_kernels"
    kernels.mkdir(parents=True)
    (kernels / "median.py").write_text("a = 1\n")
    source = {"url": project.as_uri(), "dir_info": {"editable": True}}
    (folder / "birds-1.0.dist-info" / "direct_url.json").write_text(json.dumps(source))
    before = find("birds").hash_code()
    for ignored in (".git/hook.py", "environment/pyvenv.cfg", "environment/lib/x.py", "src/notes.txt"):
        (project / ignored).parent.mkdir(parents=True, exist_ok=True)
        (project / ignored).write_text("not code of the plugin")
    assert find("birds").hash_code() == before
    (kernels / "median.py").write_text("a = 23\n")
    assert find("birds").hash_code() != before


@pytest.mark.parametrize("text", ["[", "[]", '{"url": 7}', '{"dir_info": []}', '{"dir_info": {"editable": true}}'])
def test_source_that_cannot_be_read_is_passed_over(folder: Path, text: str) -> None:
    install(folder, "birds", "")
    (folder / "birds-1.0.dist-info" / "direct_url.json").write_text(text)
    assert find("birds").hash_code()
