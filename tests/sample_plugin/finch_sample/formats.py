"""A row format; torch-free, since data are checked when a job is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finch_hub import errors
from finch_hub.specs.examples import Example


def faq(row: Mapping[str, Any]) -> Example:
    """Convert ``{"question", "answers"}``."""
    question, answers = row["question"], row["answers"]
    if not isinstance(question, str) or not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise errors.InvalidSpec(errors.Problem(where="answers", what="is no list of texts", fix="give at least one"))
    return Example.of_pair(question, answers[0])
