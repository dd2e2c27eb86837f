"""The demo's journal: what one run writes, the next one reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.demo import plan
from examples.demo.journal import Journal
from examples.demo.plan import Speed


def test_the_next_run_finds_sizes_durations_speed_and_results(tmp_path: Path) -> None:
    file, sizes, calls = tmp_path / "journal.json", plan.sizes_at(30), []

    def compute() -> list[str]:
        calls.append(1)
        return ["an answer"]

    first = Journal(file)
    assert (first.sizes("style"), first.seconds("style"), first.speed, first.spent) == (None, None, None, 0)
    first.decide("style", sizes)
    first.end("style", 12.5, Speed(units=300, start=4))
    first.end("base", 2.5)
    assert first.once("answers", {"question": "a"}, compute) == ["an answer"]

    second = Journal(file)
    assert second.sizes("style") == sizes
    assert (second.seconds("style"), second.spent) == (12.5, 15)
    assert second.speed == Speed(units=300, start=4)
    assert second.once("answers", {"question": "a"}, compute) == ["an answer"]
    assert len(calls) == 1
    second.once("answers", {"question": "b"}, compute)
    assert len(calls) == 2


def test_a_result_that_could_not_be_computed_is_not_recorded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    with pytest.raises(ZeroDivisionError):
        journal.once("merged", {}, lambda: 1 / 0)
    assert Journal(tmp_path / "journal.json").once("merged", {}, lambda: 2) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"steps": {}}', '{"steps": {"style": {"sizes": {"old": 1}}}, "speed": {"old": 1}}']
)
def test_a_journal_that_another_version_wrote_is_ignored(tmp_path: Path, content: str) -> None:
    file = tmp_path / "journal.json"
    file.write_text(content)
    journal = Journal(file)
    assert (journal.sizes("style"), journal.speed) == (None, None)
    journal.decide("style", plan.sizes_at(0))
    assert Journal(file).sizes("style") == plan.sizes_at(0)
