"""Fields of captured log records."""

from __future__ import annotations

import pytest

from finch_hub.storage.redaction import Redactor
from finch_hub.workers.logs.formatter import FieldFormatter

_OF_ALL = {"time", "level", "logger", "worker"}


def list_said(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """Return the fields of each captured record, without those that all records have."""
    formatter = FieldFormatter("json", Redactor())
    said = [formatter.list_fields(record) for record in caplog.records]
    return [{key: value for key, value in fields.items() if key not in _OF_ALL} for fields in said]
