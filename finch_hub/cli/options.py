"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from typing import Any

import click

from finch_hub import errors


def settings_of(pairs: Iterable[str], option: str, *, taken: Container[str] = ()) -> dict[str, Any]:
    """Read `name=value` pairs; a value is JSON where it can be read as such, else text.

    Arguments:
        pairs: as the user gave them.
        option: that they were given by.
        taken: names that have an option of their own.

    Raises:
        InvalidSpec: with every pair that is none.

    """
    found: dict[str, Any] = {}
    problems = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            problems.append(errors.Problem(where=option, what=f"{pair!r} is no setting", fix="write name=value"))
            continue
        if name in taken:
            problems.append(errors.Problem(where=option, what=f"{name} has an option of its own"))
            continue
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    if problems:
        raise errors.InvalidSpec(problems)
    return found


class Numbers(click.ParamType[tuple[float, ...]]):
    """Several numbers in one value: `1,0.5`."""

    name = "number,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,0.5", param, ctx)


class Rank(click.ParamType[int | str]):
    """A number of directions, or `auto`."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read the number; whether it can be one is for the specification to say."""
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, ctx)


def data_or_share(text: str | None) -> str | float | None:
    """Read validation data, or a number as the share of the data to hold out."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave; None stands for not given."""
    return {name: value for name, value in options.items() if value is not None}
