"""The index of docs/decisions agrees with the records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
RECORDS = sorted(FOLDER.glob("[0-9]*.md"))
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \[?\d{4}", line)
]


def title_of(record: Path) -> str:
    found = re.match(r"# (\d{4}): (.+)\n", record.read_text(encoding="utf-8"))
    assert found, record.name
    assert record.name.startswith(f"{found[1]}-")
    return found[2]


def replaced_by(record: Path) -> list[str]:
    """Return the numbers that a record says that it replaces."""
    paragraphs = record.read_text(encoding="utf-8").split("\n\n")
    return [number for text in paragraphs if text.startswith("Replaces ") for number in re.findall(r"\b\d{4}\b", text)]


def test_every_record_has_one_row_with_its_title_and_a_state() -> None:
    rows = {link[1]: rest for number, *rest in ROWS if (link := re.fullmatch(r"\[\d{4}\]\((.+)\)", number))}
    assert list(rows) == [record.name for record in RECORDS]
    for record in RECORDS:
        title, state, summary = rows[record.name]
        assert title == title_of(record)
        assert re.fullmatch(r"accepted|superseded by \d{4}", state), record.name
        assert summary.endswith("."), record.name


def test_numbers_are_unique_and_in_order() -> None:
    numbers = [re.sub(r"\[(\d{4})\].*", r"\1", row[0]) for row in ROWS]
    assert numbers == sorted(set(numbers))


def test_a_replaced_number_has_no_record_and_is_named_by_its_successor() -> None:
    rows = {number: state.removeprefix("replaced by ") for number, _, state, _ in ROWS if number.isdigit()}
    successors = {number: record.name[:4] for record in RECORDS for number in replaced_by(record)}
    assert rows == successors
    assert not [record.name for record in RECORDS if record.name[:4] in rows]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name[:4])
def test_a_record_has_context_decision_and_rejected_ways(record: Path) -> None:
    headings = re.findall(r"^## (.+)$", record.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings in (["Context", "Decision", "Rejected"], ["Context", "Decision", "Measured", "Rejected"])
