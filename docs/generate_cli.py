"""Generator of docs/cli.md from the commands' help, run by `make docs`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import click

from finch_hub.cli import main, output

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Generated from the commands' own help by `make docs`.

Commands are `finch-hub NOUN VERB`, or a verb alone for the main tasks. Commands that read have `--json`. Results go to
standard output, progress and messages to standard error. Progress is a live bar on a terminal, elsewhere plain lines.

Characters that steer a terminal, cannot be seen or change the direction of text are shown as escapes, such as `\\x1b`.
So is a newline in a name. `--json` has exact values, with such characters as `\\u001b`.

## Exit codes

| code | meaning |
|---|---|
"""
SETTINGS = """
## Settings

Settings come from environment variables, then from `finch.toml` in the home (or at `FINCH_CONFIG`), then from these
defaults.

| variable | default | meaning |
|---|---|---|
"""


def build_page() -> str:
    """Return the text of the page."""
    return (
        HEAD
        + "".join(_format_exit_codes())
        + SETTINGS
        + "".join(_format_settings())
        + "".join(_format_commands(main.cli, "finch-hub"))
    )


def _format_exit_codes() -> Iterator[str]:
    meanings = {code: meaning for _, code, meaning in output.EXIT_CODES}
    meanings |= {0: "done", output.INTERNAL: "a bug in Finch Hub or a plugin; `FINCH_DEBUG=1` shows where"}
    meanings[output.INTERRUPTED] = "interrupted (a followed job continues), or a worker was interrupted twice"
    meanings[output.CLOSED_OUTPUT] = "the reader of standard output left, such as `head`"
    meanings[128 + signal.SIGTERM] = "a worker was told to stop twice, and did not finish its jobs"
    yield from (f"| {code} | {meaning} |\n" for code, meaning in sorted(meanings.items()))


def _format_settings() -> Iterator[str]:
    from finch_hub.settings import Settings

    described = dict(_parse_attributes(Settings.__doc__ or ""))
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        yield f"| `FINCH_{name.upper()}` | {default} | {described[name]} |\n"


def _parse_attributes(text: str) -> Iterator[tuple[str, str]]:
    for line in text.partition("Attributes:")[2].partition("Raises:")[0].splitlines():
        name, colon, meaning = line.strip().partition(": ")
        if colon:
            yield name, meaning


def _format_commands(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[str]:
    context = click.Context(
        command,
        info_name=path.rpartition(" ")[2],
        parent=parent,
        terminal_width=100,
        help_option_names=["-h", "--help"],
    )
    title = f"\n{'##' if parent is None or parent.parent is None else '###'} {path}\n\n"
    yield f"{title}```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _format_commands(child, f"{path} {name}", context)


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
