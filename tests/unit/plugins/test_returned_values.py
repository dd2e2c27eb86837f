"""What plugins return, as plain values: bounded, and read without their code going on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from finch_hub import errors
from finch_hub.plugins.returned_values import to_plain


def copy(data: object) -> dict[str, Any]:
    return to_plain(data, owner="export format odd", expected="a report by names")


class Exits(Mapping[str, int]):
    def __getitem__(self, name: str) -> int:
        raise SystemExit(3)

    def __iter__(self) -> Iterator[str]:
        raise SystemExit(3)

    def __len__(self) -> int:
        return 1


class Unreadable(str):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __format__ = __str__  # type: ignore[assignment]


class Mute:
    def __str__(self) -> str:
        raise SystemExit(3)


class Model(pydantic.BaseModel):
    size: int = 3


class Endless(Mapping[Any, int]):
    """A mapping that never ends, with new names or the same one."""

    def __init__(self, *names: str) -> None:
        self._names = itertools.cycle(names) if names else map(str, itertools.count())

    def __getitem__(self, name: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return 1


def nest(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_plain_values_are_kept() -> None:
    data = {"a": None, "b": True, "c": 7, "d": 0.5, "e": "text\n", "f": [1, {"g": []}]}
    assert copy(data) == data


def test_numbers_of_numpy_stay_numbers() -> None:
    plain = copy({"loss": np.float32(0.5), "rows": np.int64(7), "part": Fraction(1, 4), "good": np.bool_(False)})
    assert plain == {"loss": 0.5, "rows": 7, "part": 0.25, "good": False}
    assert [type(value) for value in plain.values()] == [float, int, float, bool]


def test_other_values_become_plain() -> None:
    plain = copy(
        {"path": Path("/x"), "set": {1}, "model": Model(), "bytes": b"\xff", "half": "\ud800", "tuple": (1, 2)}
    )
    assert plain == {
        "path": "/x", "set": [1], "model": {"size": 3}, "bytes": "b'\\xff'", "half": "\\ud800", "tuple": [1, 2],
    }  # fmt: skip
    text = copy({"a": Unreadable("x"), Unreadable("b"): 1})
    assert [type(value) for value in (*text, text["a"])] == [str, str, str]
    assert math.isnan(copy({"a": math.nan})["a"])


@pytest.mark.parametrize("data", ["text", 7, ["a"], {7: 0.5}, None, iter("ab")])
def test_what_has_no_names_is_refused(data: object) -> None:
    with pytest.raises(errors.PluginError, match=rf"odd returned {type(data).__name__}, not a report by names"):
        copy(data)


@pytest.mark.parametrize("data", [Exits(), {"a": Exits()}, {"a": Mute()}, {"a": 10**5000}])
def test_value_whose_code_fails_names_its_owner(data: object) -> None:
    with pytest.raises(errors.PluginError, match=r"^export format odd failed: (SystemExit: 3|ValueError)"):
        copy(data)


def test_size_is_bounded() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    for data in (
        {"a": "x" * 10_000_000},
        {"a": [0] * 1_000_001},
        {"a": nest(100_000)},
        endless,
        Endless(),
        Endless(""),
    ):
        with pytest.raises(errors.PluginError, match=r"^export format odd returned more than"):
            copy(data)
    assert "count" in copy({"a": itertools.count()})["a"], "an iterator may never end"
