"""Output of every command: values as JSON or drawn, errors as one text and an exit code."""

from __future__ import annotations

import errno
import json
import os
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finch_hub import errors
from finch_hub.display import tables
from finch_hub.plugins import command_output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finch_hub.hub.facade import Hub

Command = TypeVar("Command", bound=Callable[..., Any])

INTERNAL = 1
UNAVAILABLE = 7
PLUGIN_FAILED = 8
INTERRUPTED = 130
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
    (errors.NotReproduced, 9, "the job of a version was repeated and gave other bytes"),
    (errors.IncompleteBackup, 10, "a backup was finished without artifacts that are missing or damaged"),
)

# What the system says about paths of users, and about their disks.
_REFUSALS = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}
)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error, 1 for an unexpected one."""
    return next((code for kind, code, _ in EXIT_CODES if isinstance(error, kind)), INTERNAL)


def fail(error: Exception) -> int:
    """Print an error and return its exit code. The traceback is printed with FINCH_DEBUG=1 only."""
    if isinstance(error, OSError) and error.filename is not None and error.errno in _REFUSALS:
        name = error.filename if isinstance(error.filename, str) else repr(error.filename)
        refused = errors.InvalidInput(f"cannot be used: {error.strerror}", where=errors.printable(name))
        error = refused.with_traceback(error.__traceback__)
    text = f"error: {error}"
    if not isinstance(error, errors.FinchError):
        text = f"internal error: {type(error).__name__}: {error}\n"
        text += "This is a bug in Finch Hub or a plugin. Set FINCH_DEBUG=1 to see where."
    if os.environ.get("FINCH_DEBUG"):
        text = "".join(traceback.format_exception(error)) + text
    click.echo(redact(text), err=True)
    return exit_code(error)


def redact(text: str) -> str:
    """Return a text without the secrets of the settings and of the environment."""
    from finch_hub import settings
    from finch_hub.storage.redaction import Redactor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            redactor = Redactor.of(settings.load())
        except Exception:  # perhaps the one that is shown
            redactor = Redactor()
    return redactor.clean(text)


def open_hub() -> Hub:
    """Open the hub with the current settings. The import is here so that `--help` loads little."""
    from finch_hub.hub.facade import Hub

    return Hub()


def json_option(command: Command) -> Command:
    """Add `--json`, which every command that reads has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def emit(value: Any, as_json: bool, make: Callable[[], RenderableType]) -> None:
    """Print the value as JSON, or what `make` draws. A text is not wrapped, since it may be a path."""
    if as_json:
        say(json.dumps(tables.to_json(value), indent=2, ensure_ascii=False))
    else:
        draw(make())


def say(text: str = "", *, nl: bool = True) -> None:
    """Print a text of the result. What plugins print goes to standard error."""
    click.echo(text, file=command_output.stream(), nl=nl)


def draw(drawn: RenderableType | None) -> None:
    """Print a drawn part of the result."""
    console = tables.console()
    console.file = command_output.stream()
    console.print(drawn, soft_wrap=isinstance(drawn, str))


def suggest(purpose: str, command: str, as_json: bool = False) -> None:
    """Print the next command on standard error, so that standard output has the result alone. JSON is for programs."""
    if not as_json:
        click.echo(f"{purpose}: finch-hub {command}", err=True)
