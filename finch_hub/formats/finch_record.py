"""The `finch.json` of a folder: its kind and origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.formats.regular_files import read_regular_file

RECORD = "finch.json"


def write_record(folder: Path, kind: str, record: Mapping[str, Any]) -> None:
    """Write a folder's record."""
    text = json.dumps({"made": kind, **record}, indent=2, sort_keys=True) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def sign_record(folder: Path, job_id: str) -> None:
    """Add the job that wrote a folder to its record, if it has one."""
    if record := {**read_record(folder)}:
        write_record(folder, record.pop("made", ""), {**record, "job": job_id})


def read_record(folder: Path) -> Mapping[str, Any]:
    """Return a folder's record, empty if it cannot be read."""
    try:
        return parse_record(read_regular_file(folder / RECORD))
    except errors.RefusedArtifact:
        return {}


def parse_record(content: bytes) -> Mapping[str, Any]:
    """Return the record in a file, empty if it is none."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def read_name(folder: Path) -> str:
    """Return the name in a folder's record, or else the folder's own name."""
    return str(read_record(folder).get("name") or folder.name)
