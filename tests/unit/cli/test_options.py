"""Options whose values are parsed: settings, ranks."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finch_hub import errors
from finch_hub.cli import options


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.one_of(st.integers(), st.booleans(), st.none()))
)
def test_parse_settings_returns_the_json_values(settings: dict[str, Any]) -> None:
    pairs = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    assert options.parse_settings(pairs, "--set") == settings


def test_parse_settings_without_json_returns_text() -> None:
    assert options.parse_settings(["schedule=cosine", "text=a=b"], "--set") == {"schedule": "cosine", "text": "a=b"}
    with pytest.raises(errors.InvalidSpec, match="'=3' is not a setting"):
        options.parse_settings(["=3"], "--set")


@pytest.mark.parametrize(("text", "rank"), [("auto", "auto"), ("8", 8), ("-1", -1)])
def test_rank_accepts_a_number_or_auto(text: str, rank: int | str) -> None:
    assert options.Rank().convert(text, None, None) == rank
    with pytest.raises(click.BadParameter, match="neither a number nor auto"):
        options.Rank().convert(f"{text}x", None, None)
