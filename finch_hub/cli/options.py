"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Container, Iterable
from typing import Any, TypeVar, cast

import click

from finch_hub import errors

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZES = {"": 1, "m": 2**20, "g": 2**30, "t": 2**40}


def settings_of(pairs: Iterable[str], option: str, *, taken: Container[str] = ()) -> dict[str, Any]:
    """Read `name=value` pairs; a value is JSON where it can be read as such, else text.

    Args:
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


class Quantity(click.ParamType[float]):
    """A number with a unit, such as `90s` or `16G`."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name, self._units, self._example = name, units, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number in the smallest unit."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)\s*([a-z]?)(?:i?b)?", str(value).strip().lower())
        if found is None or found[2] not in self._units:
            self.fail(f"{value!r} is none; write {self._example}", param, ctx)
        return float(found[1]) * self._units[found[2]]


def requirements(command: Command) -> Command:
    """Add what a job may ask of the slot that runs it; the command gets them as `requirements`."""

    @functools.wraps(command)
    def with_requirements(
        *,
        queue: str,
        device: Any,
        memory: float | None,
        labels: tuple[str, ...],
        time_limit: float | None,
        together: bool = False,
        **rest: Any,
    ) -> Any:
        from finch_hub.specs.jobs import Requirements

        asked = Requirements(
            queue=queue,
            device=device,
            memory_bytes=int(memory or 0),
            labels=labels,
            time_limit=time_limit,
            together=together,
        )
        return command(requirements=asked, **rest)

    made = cast("Command", with_requirements)  # it takes the options' values instead of `requirements`
    for option in (
        click.option("--time-limit", type=Quantity("time", _UNITS, "90s, 30m or 2h"), help="Time that it may take."),
        click.option(
            "--memory", type=Quantity("size", _SIZES, "800M or 16G"), help="Memory of the device that it needs."
        ),
        click.option("--label", "labels", multiple=True, help="Label of the worker; repeat it for several."),
        click.option("--device", type=click.Choice(["any", "cpu", "cuda"]), default="any", help="Kind of device."),
        click.option("--queue", default="default", show_default=True, help="Queue of the workers that may take it."),
    ):
        made = option(made)
    return made


def data_or_share(text: str | None) -> str | float | None:
    """Read validation data, or a number as the share of the data to hold out."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def given(**options: Any) -> dict[str, Any]:
    """Return the options that the user gave; None stands for not given."""
    return {name: value for name, value in options.items() if value is not None}
