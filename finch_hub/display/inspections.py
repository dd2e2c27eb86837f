"""Drawings of inspections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finch_hub.display.tables import format_bytes, format_count

if TYPE_CHECKING:
    from finch_hub.specs.inspections import InspectionReport


def describe_inspection(report: InspectionReport) -> list[str]:
    """Describe what an inspection read, and a line for each orphan. Damage is an error of its own."""
    read = [format_count(report.trees, "adapter folder"), format_count(report.files, "file")]
    read += [format_bytes(report.bytes), *([format_count(report.rows, "row")] if report.rows else [])]
    orphans = [str(finding) for finding in report.findings if finding.kind == "orphan"]
    return [f"Read {', '.join(read)}", *orphans]
