"""`finch-hub adapters card`, which prints the model card of a version, or edits it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finch_hub import errors
from finch_hub.cli import completion, output

if TYPE_CHECKING:
    from finch_hub.hub.facade import Hub
    from finch_hub.specs.cards import Card

_MAX_BYTES = 2**20  # of a file that may be a card; the hub counts its characters


@click.command()
@click.argument("reference", shell_complete=completion.complete_references)
@click.option("--edit", is_flag=True, help="Open the card in the editor of $VISUAL or $EDITOR.")
@click.option(
    "--from", "source", type=click.Path(allow_dash=True), help="Take the card from a file, or - for standard input."
)
@click.option("--reset", is_flag=True, help="Bring the written card back.")
@output.json_option
def card(reference: str, edit: bool, source: str | None, reset: bool, as_json: bool) -> None:
    """Print the model card of a version, or edit it.

    A card is written from what is known: how to ask the adapter, data, metrics, retention, lineage, licenses, limits.
    An edit replaces its Markdown. It is kept with the version, and exports, pushes and bundles have it. The metadata at
    the beginning are always written.
    """
    if sum((edit, source is not None, reset)) > 1:
        raise errors.InvalidSpec("only one of them can be given", where="--edit, --from, --reset")
    if edit:
        _find_editor()  # before the hub is opened
    with output.open_hub() as hub:
        if not (edit or source is not None or reset):
            found = hub.adapters.card(reference)
            if as_json:
                output.emit(found, as_json, list)
            else:
                output.write(found.text)
            return
        changed: Card | None
        if reset:
            changed, done = hub.adapters.reset_card(reference), "Brought the written card back for"
        else:
            changed = _edit(hub, reference) if source is None else hub.adapters.edit_card(reference, _read(source))
            done = "Edited the card of"
    if changed is None:
        output.tell(f"Nothing was changed, so the card of {reference} stays.")
        return
    text = f"{done} {changed.adapter}"
    output.emit(changed, as_json, lambda: text)
    if not reset:
        output.suggest("Bring the written card back", "adapters", "card", changed.adapter, "--reset", as_json=as_json)


def _read(source: str) -> str:
    """Return the text of a file or of standard input."""
    try:
        if source == "-":
            content = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise errors.NotFound("file", source) from None
    except OSError as error:
        raise errors.InvalidInput(f"cannot be read: {error.strerror}", where=source, fix="name another file") from None
    if len(content) > _MAX_BYTES:
        what = f"has more than {_MAX_BYTES:,} bytes"
        raise errors.InvalidInput(what, where=source, fix="keep long texts elsewhere, and link to them")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.InvalidInput(f"is not UTF-8: {error.reason}", where=source, fix="save it as UTF-8") from None


def _edit(hub: Hub, reference: str) -> Card | None:
    """Let the user edit the card of a version, and return it, or None if nothing was changed."""
    before = hub.adapters.card(reference)
    # The user may have worked on the text for long, so it is removed only once it is stored.
    descriptor, name = tempfile.mkstemp(prefix="card-", suffix=".md")
    file = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(before.body)
    try:
        _open_editor(file)
        text = _read(name)
        changed = None if text == before.body else hub.adapters.edit_card(reference, text, expected=before.revision)
    except BaseException as error:
        if not file.is_file() or file.read_bytes() == before.body.encode():
            file.unlink(missing_ok=True)
        else:
            again = output.name_command("adapters", "card", reference, "--from", str(file))
            if isinstance(error, errors.Conflict):
                look = output.name_command("adapters", "card", reference)
                again = f"first put what `{look}` shows now into it, then {again}"
            output.tell(f"Your text is in {file}. To use it: {again}")
        raise
    file.unlink()
    return changed


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _find_editor() -> list[str]:
    """Return the command of the user's editor.

    Raises:
        InvalidSpec: there is no terminal or no editor.
    """
    instead = "give the text with --from FILE instead"
    if not _has_terminal():
        raise errors.InvalidSpec("cannot open an editor: this is not a terminal", fix=instead)
    for variable in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(os.environ.get(variable, ""))
        except ValueError as error:
            raise errors.InvalidSpec(f"is not a command: {error}", where=variable, fix=instead) from None
        if words:
            return words
    raise errors.InvalidSpec("cannot open an editor: none is set", fix=f"set VISUAL or EDITOR, or {instead}")


def _open_editor(file: Path) -> None:
    """Open a file in the user's editor, and wait until it ends.

    Raises:
        InvalidSpec: the editor cannot be run, or failed.
    """
    editor = _find_editor()
    try:
        status = subprocess.run([*editor, str(file)], check=False).returncode
    except OSError as error:
        what = f"the editor {editor[0]} cannot be run: {error.strerror}"
        raise errors.InvalidSpec(what, fix="set VISUAL or EDITOR to another one") from None
    if status != 0:
        what = f"the editor {editor[0]} exited with {status}, so the card was not changed"
        raise errors.InvalidSpec(what, fix="edit it again")
