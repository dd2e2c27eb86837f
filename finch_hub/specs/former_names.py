"""Former names of arguments and options, which go on working for one release with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from finch_hub import errors
from finch_hub.specs.options import name_option

P = ParamSpec("P")
R = TypeVar("R")


class FormerNameWarning(errors.FinchWarning):
    """An argument or option was given by a name that the next release will not know."""


def accept_former_names(
    convert: Mapping[str, Callable[[Any], Any]] | None = None, /, **names: str
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that passes arguments with a former name on under their present name, with a warning.

    Args:
        convert: functions from the values under a former name to those under the present one, where they differ.
        names: present names by the former ones.

    Raises:
        TypeError: from the decorated function, if an argument is given under both names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for former in names.keys() & kwargs.keys():
                name, value = names[former], kwargs.pop(former)
                if name in kwargs:
                    raise TypeError(f"{function.__name__}() got the argument {name} twice: also as {former}")
                is_converted = convert is not None and former in convert and value is not None
                kwargs[name] = convert[former](value) if is_converted and convert is not None else value
                example = f"={kwargs[name]!r}" if is_converted else ""
                warn_of_former_name(former, name, example, stacklevel=2)
            return function(*args, **kwargs)

        return call

    return decorate


def warn_of_former_name(former: str, name: str, example: str = "", *, stacklevel: int = 2) -> None:
    """Warn that a name was used that the next release will not know.

    Args:
        example: the value in the unit of the present name, if it has another one.
    """
    old, new = name_option(former), name_option(name)
    warnings.warn(
        FormerNameWarning(f"{old} is now called {new} (write {new}{example}: the next release will not know {old})"),
        stacklevel=stacklevel + 1,
    )
