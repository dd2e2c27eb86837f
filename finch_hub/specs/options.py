"""Options in messages: arguments of a function, or words of a command if a command runs."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar

_IN_COMMAND: ContextVar[bool] = ContextVar("in_command", default=False)
# Options that a command names otherwise: it repeats one for each item of a list, and `from` is no argument in Python.
_COMMAND_NAMES = {"ignore_columns": "ignore_column", "start": "from"}


@contextlib.contextmanager
def in_command() -> Iterator[None]:
    """Name options as words of a command in the messages of this thread."""
    token = _IN_COMMAND.set(True)
    try:
        yield
    finally:
        _IN_COMMAND.reset(token)


def is_in_command() -> bool:
    """Tell whether a command runs, so that messages speak of commands and not of Python."""
    return _IN_COMMAND.get()


def name_option(name: str) -> str:
    """Return the name of an option, such as `file_format` or `--file-format`."""
    return f"--{_COMMAND_NAMES.get(name, name).replace('_', '-')}" if _IN_COMMAND.get() else name


def write_options(options: Mapping[str, str | float | Sequence[str]]) -> str:
    """Return options with their values, such as `replace=True` or `--replace`."""
    if not _IN_COMMAND.get():
        return ", ".join(f"{name}={value!r}" for name, value in options.items())
    return " ".join(
        name_option(name) if word is True else f"{name_option(name)} {shlex.quote(str(word))}"
        for name, value in options.items()
        for word in (value if isinstance(value, (list, tuple)) else [value])
    )
