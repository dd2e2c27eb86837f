"""Row format of questions and answers, without torch because rows are read at submission."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finch_hub import errors
from finch_hub.specs.examples import Example


def faq(row: Mapping[str, Any]) -> Example:
    """Convert ``{"question", "answers"}``."""
    question, answers = row["question"], row["answers"]
    if not isinstance(question, str) or not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise errors.InvalidSpec(
            errors.Problem(where="answers", what="is not a list of strings", fix="give at least one string")
        )
    return Example.of_pair(question, answers[0])
