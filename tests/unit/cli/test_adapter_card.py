"""`finch-hub adapters card`."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import registry

from finch_hub.cli import adapter_card
from finch_hub.registry.database import Database
from finch_hub.texts.visible_text import to_block

from .conftest import Run

WRITER = "import sys; open(sys.argv[1], 'w').write({!r})"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A terminal, without an editor, and a folder of its own for the texts that users edit."""
    monkeypatch.setattr(adapter_card, "_has_terminal", lambda: True)
    for variable in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "texts").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "texts"))


def set_editor(monkeypatch: pytest.MonkeyPatch, code: str, *, variable: str = "EDITOR") -> None:
    monkeypatch.setenv(variable, shlex.join([sys.executable, "-c", code]))


def test_card_is_printed_edited_from_a_file_and_brought_back(run: Run, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "medical", metrics={"loss_after": 1.5})
    written = run("adapters", "card", "medical")
    assert written.out.startswith('---\nlibrary_name: "peft"\n')
    assert "| loss_after | 1.5 |" in written.out
    assert run("adapters", "card", "medical", "--json").json["text"] == written.out
    (tmp_path / "card.md").write_text("# By hand\x1b[2J\n")
    edited = run("adapters", "card", "medical", "--from", tmp_path / "card.md")
    assert edited.out == "Edited the card of medical/1\n"
    assert edited.err == "Bring the written card back: finch-hub adapters card medical/1 --reset\n"
    shown = run("adapters", "card", "medical/1").out
    assert shown.endswith("---\n\n# By hand\\x1b[2J\n")
    assert to_block(shown) == shown
    reset = run("adapters", "card", "medical", "--reset", "--json")
    assert (reset.json["edited_at"], reset.json["text"], reset.err) == (None, written.out, "")


def test_card_is_read_from_standard_input(run: Run, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add_version(database, "medical")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("# Über\n".encode())))
    assert run("adapters", "card", "medical", "--from", "-").status == 0
    assert run("adapters", "card", "medical").out.endswith("\n# Über\n")


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (None, 3, "there is no file"),
        (b"", 2, "the text is empty"),
        (b"\xff\xfe\xff", 2, "is not UTF-8"),
        (b"x" * 2**21, 2, "has more than 1,048,576 bytes"),
        (b"x" * 300_000, 2, "the text has 300,000 characters, more than 200,000"),
        (b"---\nlicense: mit\n---\n# x\n", 2, "the metadata between the lines --- are written from what is known"),
    ],
)
def test_file_that_is_no_card_is_refused(
    run: Run, database: Database, tmp_path: Path, content: bytes | None, status: int, reason: str
) -> None:
    registry.add_version(database, "medical")
    if content is not None:
        (tmp_path / "card.md").write_bytes(content)
    refused = run("adapters", "card", "medical", "--from", tmp_path / "card.md")
    assert (refused.status, refused.out) == (status, "")
    assert reason in refused.err.replace("\n", " ")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("variable", ["VISUAL", "EDITOR"])
def test_card_is_edited_in_the_editor_of_the_user(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    registry.add_version(database, "medical")
    if variable == "VISUAL":
        monkeypatch.setenv("EDITOR", "false")
    set_editor(monkeypatch, WRITER.format("# In an editor\n"), variable=variable)
    assert run("adapters", "card", "medical", "--edit").out == "Edited the card of medical/1\n"
    assert run("adapters", "card", "medical").out.endswith("\n\n# In an editor\n")
    again = run("adapters", "card", "medical", "--edit")
    assert (again.status, again.out) == (0, "")
    assert "Nothing was changed" in again.err
    assert list((tmp_path / "texts").iterdir()) == []


@pytest.mark.usefixtures("terminal")
def test_text_of_a_refused_edit_is_kept_for_the_user(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_version(database, "medical")
    other = "from finch_hub import Hub; Hub().adapters.edit_card('medical', 'of another'); "
    set_editor(monkeypatch, other + WRITER.format("# Mine\n"))
    refused = run("adapters", "card", "medical", "--edit")
    assert refused.status == 4
    assert "the card of medical/1 was edited meanwhile" in refused.err
    (kept,) = (tmp_path / "texts").iterdir()
    assert kept.read_text() == "# Mine\n"
    again = "first put what `finch-hub adapters card medical` shows now into it, then "
    assert f"{again}finch-hub adapters card medical --from {kept}" in refused.err.replace("\n", " ")
    assert run("adapters", "card", "medical").out.endswith("\nof another\n")


@pytest.mark.usefixtures("terminal")
def test_file_that_the_editor_removed_changes_nothing(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add_version(database, "medical")
    set_editor(monkeypatch, "import os, sys; os.remove(sys.argv[1])")
    refused = run("adapters", "card", "medical", "--edit")
    assert (refused.status, refused.out) == (3, "")
    assert "there is no file" in refused.err


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("editor", "reason"),
    [
        ("", "cannot open an editor: none is set (set VISUAL or EDITOR, or give the text with --from FILE instead)"),
        ("false", "the editor false exited with 1, so the card was not changed"),
        ("/nowhere/editor", "the editor /nowhere/editor cannot be run: No such file or directory"),
        ("vi '", "is not a command: No closing quotation"),
    ],
)
def test_editor_that_does_not_work_changes_nothing(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editor: str, reason: str
) -> None:
    registry.add_version(database, "medical")
    monkeypatch.setenv("EDITOR", editor)
    refused = run("adapters", "card", "medical", "--edit")
    assert refused.status == 2
    assert reason in refused.err.replace("\n", " ")
    assert list((tmp_path / "texts").iterdir()) == []
    assert run("adapters", "card", "medical", "--json").json["edited_at"] is None


def test_edit_without_a_terminal_is_refused(run: Run, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add_version(database, "medical")
    set_editor(monkeypatch, WRITER.format("x"))
    refused = run("adapters", "card", "medical", "--edit")
    assert refused.status == 2
    assert "cannot open an editor: this is not a terminal (give the text with --from FILE instead)" in refused.err


def test_only_one_change_at_a_time_is_taken(run: Run) -> None:
    refused = run("adapters", "card", "medical", "--edit", "--reset")
    assert refused.status == 2
    assert "only one of them can be given" in refused.err


@pytest.mark.parametrize(("path", "status"), [("card.md/x", 3), ("loop", 2), ("/proc/self/mem", 2)])
def test_path_that_cannot_be_read_is_named(
    run: Run, database: Database, tmp_path: Path, path: str, status: int
) -> None:
    if path.startswith("/") and not Path(path).exists():
        pytest.skip("this system has no such file")
    registry.add_version(database)
    (tmp_path / "card.md").touch()
    (tmp_path / "loop").symlink_to("loop")
    source = tmp_path / path
    for words in (["adapters", "card", "medical", "--from", source], ["unbundle", source]):
        ran = run(*words)
        assert ran.status in (2, 3), ran.err
        assert source.name in ran.err
    edited = run("adapters", "card", "medical", "--from", source)
    assert (edited.status, str(source) in edited.err) == (status, True)
