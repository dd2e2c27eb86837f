"""How every command prints: values as JSON or drawn, errors as one text and an exit code."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finch_hub import errors
from finch_hub.display import tables

if TYPE_CHECKING:
    from finch_hub.hub import Hub

Command = TypeVar("Command", bound=Callable[..., Any])

INTERNAL = 1
UNAVAILABLE = 7
INTERRUPTED = 130
# The first line that matches counts. docs/cli.md prints this table.
EXIT_CODES: tuple[tuple[type[errors.FinchError], int, str], ...] = (
    (errors.InvalidInput, 2, "invalid input: an argument, a data set, an artefact or a combination of them"),
    (errors.NotFound, 3, "something that was named does not exist"),
    (errors.Conflict, 4, "the state of a job, version or alias forbids it"),
    (errors.JobFailed, 5, "a job that was waited for failed"),
    (errors.TrainingFailed, 5, "a job that was waited for failed"),
    (errors.JobCancelled, 6, "a job that was waited for was cancelled"),
    (errors.Unavailable, UNAVAILABLE, "a database, broker, store or worker does not answer"),
    (errors.PluginError, 8, "a plugin cannot be loaded or failed"),
    (errors.NotReproduced, 9, "a version's job was done again and gave other bytes"),
)


def exit_code(error: BaseException) -> int:
    """Return what the process ends with for an error: 1 where it is none of ours."""
    return next((code for kind, code, _ in EXIT_CODES if isinstance(error, kind)), INTERNAL)


def fail(error: Exception) -> int:
    """Print the error without its traceback (FINCH_DEBUG=1 shows it) and return the exit code."""
    from finch_hub.storage.redaction import redact_url

    text = f"error: {error}"
    if not isinstance(error, errors.FinchError):
        text = f"internal error: {type(error).__name__}: {error}\n"
        text += "This is a fault in Finch Hub or a plugin; FINCH_DEBUG=1 shows where."
    if os.environ.get("FINCH_DEBUG"):
        text = "".join(traceback.format_exception(error)) + text
    click.echo(redact_url(text), err=True)
    return exit_code(error)


def open_hub() -> Hub:
    """Make the hub of the settings in force; imported here so that `--help` of a command stays light."""
    from finch_hub.hub import Hub

    return Hub()


def json_option(command: Command) -> Command:
    """Add `--json`, which every command that reads has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def emit(value: Any, as_json: bool, draw: Callable[[], Any]) -> None:
    """Print the value as JSON, or whatever `draw` returns as rich draws it."""
    if as_json:
        click.echo(json.dumps(tables.plain(value), indent=2, ensure_ascii=False))
    else:
        tables.console().print(draw())
