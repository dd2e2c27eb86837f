"""Output of every command: values as JSON or drawn, errors as one text and an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finch_hub import errors
from finch_hub.display import tables
from finch_hub.plugins import command_output
from finch_hub.texts.visible_text import to_block, to_json, to_line, to_message

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finch_hub.hub.facade import Hub
    from finch_hub.storage.redaction import Redactor

Command = TypeVar("Command", bound=Callable[..., Any])

INTERNAL = 1
UNAVAILABLE = 7
PLUGIN_FAILED = 8
INTERRUPTED = 130
CLOSED_OUTPUT = 141  # as a shell shows the end of `cat`, `git` and others by SIGPIPE
# The first row that matches an error decides. docs/cli.md prints this table.
EXIT_CODES: tuple[tuple[type[errors.FinchError], int, str], ...] = (
    (errors.InvalidInput, 2, "invalid input: an argument, a data set, an artifact or a combination of them"),
    (errors.NotFound, 3, "something that was named does not exist"),
    (errors.Conflict, 4, "the state of a job, version or alias does not allow it, or an output exists already"),
    (errors.JobFailed, 5, "the job failed"),
    (errors.TrainingFailed, 5, "the job failed"),
    (errors.JobCancelled, 6, "the job was cancelled"),
    (errors.Unavailable, UNAVAILABLE, "a database, broker, store or worker does not answer"),
    (errors.PluginError, PLUGIN_FAILED, "a plugin cannot be loaded, or failed"),
    (errors.TimeLimitReached, PLUGIN_FAILED, "a plugin cannot be loaded or failed, or a chat template did not end"),
    (errors.NotReproduced, 9, "the job of a version was repeated and gave other bytes"),
    (errors.Damaged, 11, "an inspection found damage"),
    (errors.IncompleteBackup, 10, "a backup was finished without artifacts that are missing or damaged"),
)

# What the system says about paths of users, and about their disks.
_REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
    }
)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error, 1 for an unexpected one."""
    return next((code for kind, code, _ in EXIT_CODES if isinstance(error, kind)), INTERNAL)


def fail(error: Exception) -> int:
    """Print an error and return its exit code. The traceback is printed with FINCH_DEBUG=1 only."""
    from finch_hub.formats.atomic_writes import is_disk_full

    if isinstance(error, OSError) and error.filename is not None and error.errno in _REFUSALS:
        name = error.filename if isinstance(error.filename, str) else repr(error.filename)
        refused = errors.InvalidInput(f"cannot be used: {error.strerror}", where=name)
        error = refused.with_traceback(error.__traceback__)
    elif isinstance(error, OSError) and error.filename is None and is_disk_full(error):
        fix = "free some space where the output of this command goes, and where temporary files go"
        full = errors.Unavailable(f"could not write: {error.strerror} ({fix})")
        error = full.with_traceback(error.__traceback__)
    text = f"error: {error}"
    if not isinstance(error, errors.FinchError):
        text = f"internal error: {type(error).__name__}: {error}\n"
        text += "This is a bug in Finch Hub or a plugin. Set FINCH_DEBUG=1 to see where."
    if os.environ.get("FINCH_DEBUG"):
        tell(redact("".join(traceback.format_exception(error)).rstrip()))
    tell(redact(text))
    return exit_code(error)


def refuse(error: click.ClickException) -> int:
    """Print why a command line is refused, or help, and return the exit code."""
    shown = io.StringIO()  # the text has words of the command line
    error.show(shown)
    with contextlib.suppress(OSError):
        click.echo(to_block(redact(shown.getvalue())), err=True, nl=False)
    return error.exit_code


def redact(text: str) -> str:
    """Return a text without the secrets of the settings and of the environment."""
    return _make_redactor().clean(text)


def redact_values(value: Any) -> Any:
    """Return a value as JSON has it, without these secrets in its texts."""
    return _make_redactor().clean_values(tables.to_json(value))


def _make_redactor() -> Redactor:
    from finch_hub import settings
    from finch_hub.storage.redaction import Redactor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Redactor.of(settings.load())
        except Exception:  # perhaps the one that is shown
            return Redactor()


def open_hub(*, deletes: bool = False) -> Hub:
    """Open the hub with the current settings. The import is here so that `--help` loads little.

    Args:
        deletes: whether the command deletes something. The database can then be opened on a full disk, which has a
            reserve for that. Opening may fill it again, so the methods of the hub release it once more.
    """
    from finch_hub.hub.facade import Hub
    from finch_hub.storage import disk_reserve

    hub = Hub(progress=False)
    if deletes:
        disk_reserve.release(hub.settings.home)
    return hub


def json_option(command: Command) -> Command:
    """Add `--json`, which every command that reads has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def emit(value: Any, as_json: bool, make: Callable[[], RenderableType | list[str]]) -> None:
    """Print the value as JSON, or what `make` draws. A text is one line, and is not wrapped since it may be a path."""
    if as_json:
        say_json(json.dumps(tables.to_json(value), indent=2, ensure_ascii=False))
        return
    drawn = make()
    if isinstance(drawn, str | list):
        for line in [drawn] if isinstance(drawn, str) else drawn:
            say(line)
    else:
        draw(drawn)


def list_options(command: Command) -> Command:
    """Add `--json` and `--quiet`, which every list has."""
    return click.option("--quiet", is_flag=True, help="Print ids only, one a line.")(json_option(command))


def emit_list(
    value: Any,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    as_json: bool,
    quiet: bool = False,
    empty: str,
    advice: tuple[str, ...],
) -> None:
    """Print a list as JSON, as the ids in its first column, or as a table.

    Args:
        empty: sentence in place of a table without rows.
        advice: purpose and words of the command to run next if there are no rows.
    """
    if quiet and not as_json:
        for row in rows:
            say(tables.format_value(row[0]))
        return
    emit(value, as_json, lambda: tables.draw_table(columns, rows) if rows else empty)
    if not rows:
        suggest(*advice, as_json=as_json)


def say(line: str) -> None:
    """Print a line of the result. What plugins print goes to standard error."""
    _print(to_line(line))


def say_json(written: str) -> None:
    """Print JSON, the same on a terminal and in a pipe."""
    _print(to_json(written))


def write(piece: str) -> None:
    """Print a piece of a longer text."""
    _print(to_block(piece), nl=False)


def find_width() -> int | None:
    """Return the width of the terminal that shows the result, None if it goes to a file or a pipe."""
    return tables.console().width if command_output.stream().isatty() else None


def draw(drawn: RenderableType | None) -> None:
    """Print a drawn part of the result. A text may have several lines."""
    console = tables.console()
    console.file = command_output.stream()
    is_text = isinstance(drawn, str)
    console.print(to_message(drawn) if is_text else drawn, soft_wrap=is_text)


def tell(text: str) -> None:
    """Print a message on standard error. If nothing can be written there, the exit code tells all the same."""
    with contextlib.suppress(OSError):
        click.echo(to_message(text), err=True)


def prompt(text: str) -> None:
    """Print on standard error what asks for a line of input, without a line end."""
    with contextlib.suppress(OSError):
        click.echo(to_block(text), err=True, nl=False)


def confirm(ask: Callable[[], str], *, yes: bool) -> None:
    """Ask at a terminal whether to delete something, unless `yes` says so. Refuse it where nobody can answer.

    Args:
        ask: returns the question. It looks up what is to go, and raises an error if that does not exist.

    Raises:
        InvalidSpec: standard input is not a terminal.
        Abort: the answer is no.
    """
    if yes:
        return
    question = ask()
    if not sys.stdin.isatty():
        what, fix = "cannot ask for a confirmation: standard input is not a terminal", "add --yes to confirm"
        raise errors.InvalidSpec(what, fix=fix)
    click.confirm(to_line(question), abort=True, err=True)


def yes_option(command: Command) -> Command:
    """Add `--yes`, which every command that deletes something has."""
    return click.option("--yes", is_flag=True, help="Ask for no confirmation.")(command)


def suggest(purpose: str, *words: str, as_json: bool = False) -> None:
    """Print the next command on standard error, so that standard output has the result alone. JSON is for programs."""
    if not as_json:
        tell(f"{purpose}: {name_command(*words)}")


def name_command(*words: str) -> str:
    """Return a command as a user can type it into a shell."""
    return shlex.join(["finch-hub", *words])


def _print(text: str, *, nl: bool = True) -> None:
    click.echo(text, file=command_output.stream(), nl=nl)
