"""Validation rows of one parent, divided between a search and its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition.parents import ParentInput
from finch_hub.engine.data import tokenizing
from finch_hub.engine.data.tokenizing import TokenizedExample

# Fewer rows are not divided, because both halves would be too small to measure anything.
_MIN_ROWS_TO_DIVIDE = 16
_MAX_SELECTION_ROWS = 24
_MAX_REPORT_ROWS = 96
_MAX_LENGTH = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationRows:
    """Validation rows of one parent, divided between a search and its report.

    Attributes:
        selection: rows that a search measures.
        report: rows that only the report measures.
        is_divided: whether the two parts have no row in common. Otherwise both hold all rows.
    """

    selection: tuple[TokenizedExample, ...]
    report: tuple[TokenizedExample, ...]
    is_divided: bool


def divide(examples: Sequence[TokenizedExample]) -> ValidationRows:
    """Divide rows between a search and its report; every second row goes to the search."""
    rows = tuple(examples)
    if len(rows) < _MIN_ROWS_TO_DIVIDE:
        return ValidationRows(selection=rows, report=rows, is_divided=False)
    taken = set(range(0, min(len(rows), 2 * _MAX_SELECTION_ROWS), 2))
    rest = tuple(row for i, row in enumerate(rows) if i not in taken)
    return ValidationRows(
        selection=tuple(rows[i] for i in sorted(taken)), report=rest[:_MAX_REPORT_ROWS], is_divided=True
    )


def tokenize_validation(parents: Sequence[ParentInput], base: Base) -> list[ValidationRows | None]:
    """Tokenize and divide the validation rows of each parent, as its training did; None for a parent without rows.

    Raises:
        InvalidDataset: rows of a parent leave nothing to predict; it names all of them.
    """
    length = min(base.context, _MAX_LENGTH)
    return [
        divide(
            tokenizing.tokenize_all(
                parent.validation,
                base.tokenizer,
                system=parent.system,
                max_length=length,
                subject=f"validation rows of {parent.name}",
            )
        )
        if parent.validation
        else None
        for parent in parents
    ]
