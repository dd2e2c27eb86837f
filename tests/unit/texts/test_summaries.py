"""Summaries of objects: short, safe and the same rule for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from finch_hub.specs.jobs import Job, JobState, Requirements
from finch_hub.specs.lora import LoRAConfig
from finch_hub.texts import summaries

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOSTILE = "</td><script>alert(1)</script>\x1b[31m\u202e\nfields"


def job(**fields: object) -> Job:
    return Job.of({"id": "1", "kind": "train", "state": JobState.QUEUED, "spec": {}, "created_at": NOW, **fields})


def test_a_small_value_is_a_call_without_its_defaults() -> None:
    assert repr(LoRAConfig(rank=8)) == "LoRAConfig(rank=8)"
    assert repr(Requirements()) == "Requirements()"
    assert str(Requirements(labels=("fast",))) == "Requirements(labels=('fast',))"


def test_a_large_value_is_a_table_of_one_line_a_field() -> None:
    shown = repr(job(spec={"adapter": "birds", "lora": {"rank": 8}, "digest": "ab" * 32, "rows": list(range(1000))}))
    title, *rows = shown.splitlines()
    assert title == "Job"
    assert [row.split()[0] for row in rows] == ["id", "kind", "state", "spec", "created_at"]
    assert "'abababababab'…" in shown
    assert rows[-1].endswith("2026-01-02 03:04:05+00:00")


@pytest.mark.parametrize("count", [0, 1, 18, 19, 500])
def test_no_object_is_longer_than_twenty_lines_of_a_hundred_characters(count: int) -> None:
    fields: Mapping[str, object] = {f"field_{n}": ["word " * 50] * 50 for n in range(count)}
    lines = summaries.write_summary("Thing", fields).splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= summaries.WIDTH
    assert ("  … and 482 more" in lines) == (count == 500)


def test_what_does_not_fit_is_counted() -> None:
    assert summaries.write_value(list(range(100)), 30) == "[0, 1, 2, 3, 4, 5, … 94 more]"
    assert summaries.write_value({"a": 1, "b": 2}, 30) == "{'a': 1, 'b': 2}"


def test_nested_data_without_end_is_written() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "…" in summaries.write_value(endless, 60)


def test_a_secret_field_is_neither_written_nor_completed() -> None:
    secret = job(claim_token="hidden-token")
    assert "hidden-token" not in repr(secret) + secret._repr_html_()
    assert "claim_token" not in dir(secret)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.seen.add(tag)


def test_a_hostile_text_is_neither_html_nor_a_control_character() -> None:
    value = job(reason=HOSTILE, spec={HOSTILE: HOSTILE})
    tags = Tags()
    tags.feed(value._repr_html_())
    assert tags.seen == {"table", "caption", "tr", "th", "td"}
    for text in (repr(value), value._repr_html_()):
        assert not {"\x1b", "\u202e"} & set(text)
    assert len(repr(value).splitlines()) == 7
