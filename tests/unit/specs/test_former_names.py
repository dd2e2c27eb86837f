"""Former names of arguments, which still work and warn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finch_hub.specs.former_names import FormerNameWarning, accept_former_names
from finch_hub.specs.options import in_command

_CALLING = "return train(**arguments)  # the line that the warning names"


@accept_former_names({"minutes": lambda minutes: minutes * 60}, lr="learning_rate", minutes="seconds")
def train(*, learning_rate: float = 0.0, seconds: float = 0.0) -> tuple[float, float]:
    return learning_rate, seconds


def call(**arguments: Any) -> Any:
    return train(**arguments)  # the line that the warning names


def test_former_name_works_with_a_warning() -> None:
    with pytest.warns(FormerNameWarning, match="lr is now called learning_rate") as told:
        assert call(lr=0.5) == (0.5, 0.0)
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert (told[0].filename, lines[told[0].lineno - 1].strip()) == (__file__, _CALLING)
    with pytest.warns(FormerNameWarning, match=r"minutes is now called seconds \(write seconds=120: "):
        assert call(minutes=2) == (0.0, 120)
    with pytest.warns(FormerNameWarning, match=r"minutes is now called seconds \(write seconds: "):
        assert call(minutes=None) == (0.0, None)


def test_present_name_does_not_warn() -> None:
    assert train(learning_rate=0.5) == (0.5, 0.0)


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(TypeError, match="got the argument learning_rate twice: also as lr"):
        call(lr=0.5, learning_rate=0.1)


def test_names_are_options_in_a_command() -> None:
    with in_command(), pytest.warns(FormerNameWarning, match="--lr is now called --learning-rate"):
        call(lr=0.5)
