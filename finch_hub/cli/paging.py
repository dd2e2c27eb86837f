"""Options of commands that print a page of a list, and the command that prints the next one."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.core import ParameterSource

from finch_hub.cli import output
from finch_hub.cli.output import Command
from finch_hub.specs.cursors import MAX_PAGE


def page_options(size: int, things: str) -> Callable[[Command], Command]:
    """Return options for the size of a page of some things and for where it begins."""

    def add(command: Command) -> Command:
        after = click.option("--after", metavar="CURSOR", help="Continue behind the page that gave this cursor.")
        limit = click.IntRange(1, MAX_PAGE)
        help_ = f"Maximum number of {things}."
        return click.option("--limit", type=limit, default=size, show_default=True, help=help_)(after(command))

    return add


def suggest_next(cursor: str | None, command: str, *words: str, as_json: bool) -> None:
    """Print the command for the next page on standard error, if there is one."""
    if cursor is not None:
        output.suggest("next page", "adapters", command, f"--after={cursor}", *repeat_limit(), *words, as_json=as_json)


def repeat_limit() -> list[str]:
    """Return the size of the page as words of the next command, if the user gave one."""
    context = click.get_current_context()
    if context.get_parameter_source("limit") is ParameterSource.DEFAULT:
        return []
    return [f"--limit={context.params['limit']}"]
