"""Commands of the documentation and of deployments, parsed as the command line would, without being run."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence

import click

from finch_hub.cli import main


def split(command: str) -> list[str]:
    """Return the words of a command, as bash does. `shlex` knows no $'…', whose escapes are those of Python."""
    return shlex.split(re.sub(r"\$('(?:[^'\\]|\\.)*')", lambda found: shlex.quote(ast.literal_eval(found[1])), command))


def parse(words: Sequence[str]) -> click.Context:
    """Return the context of a command that is given as the words after `finch-hub`.

    The groups above a command belong to its context. click keeps the help option that a command has in the first
    context, so that one without its groups would change the command's help for all tests that follow.
    """
    command: click.Command = main.cli
    context = click.Context(command, info_name="finch-hub", **command.context_settings)
    left = list(words)
    while isinstance(command, click.Group):
        name = left.pop(0)
        found = command.get_command(context, name)
        assert found is not None, " ".join(words)
        command = found
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=name)
        else:
            context = command.make_context(name, left, parent=context)
    return context
