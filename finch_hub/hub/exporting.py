"""Requests for exports and merges, which write a folder for the submitter."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.formats.finch_record import read_record
from finch_hub.formats.output_paths import find_output
from finch_hub.hub.composing import resolve_adapters
from finch_hub.hub.problems import ProblemCollector
from finch_hub.registry import adapter_versions
from finch_hub.specs.jobs import ExportSpec, MergeSpec
from finch_hub.specs.options import write_options
from finch_hub.storage.outputs import find_place
from finch_hub.workers.runs.export import complete_parameters

if TYPE_CHECKING:
    from finch_hub.registry.values import AdapterVersion
    from finch_hub.storage.stores import Stores


def check_export(
    adapter: str, out: str | Path, *, format_name: str, parameters: Mapping[str, object], stores: Stores
) -> ExportSpec:
    """Check a request for an export and return its specification; see `Hub.export`."""
    collector = ProblemCollector("this export")
    versions: list[AdapterVersion] = []
    with collector.collect(), stores.database.read() as session:
        versions.append(adapter_versions.resolve_usable(session, adapter))
    with collector.collect():
        format_ = stores.catalog.export_formats[format_name]
        format_.parse(parameters)
        for version in versions:
            complete_parameters(format_, parameters, version)
    path = _check_output(out, collector, replace=bool(parameters.get("replace")))
    collector.raise_problems()
    return ExportSpec(
        adapter=versions[0].reference,
        format=format_name,
        out=str(path),
        place=find_place(path),
        parameters=dict(parameters),
    )


def check_merge(
    adapters: Sequence[str], out: str | Path, *, weights: Sequence[float] | None, replace: bool, stores: Stores
) -> MergeSpec:
    """Check a request for a merge and return its specification; see `Hub.merge`."""
    collector = ProblemCollector("this merge")
    parents, versions = resolve_adapters(adapters, weights, stores, collector)
    path = _check_output(out, collector, replace=replace)
    with collector.collect():
        if replace and path.is_dir() and any(path.iterdir()) and "made" not in read_record(path):
            raise errors.Conflict(f"the path {path} holds no earlier result (choose another path or delete it)")
    collector.raise_problems()
    pinned = [parent.evolve(adapter=known.reference) for parent, known in zip(parents, versions, strict=True)]
    return MergeSpec(parents=tuple(pinned), out=str(path), place=find_place(path), replace=replace)


def _check_output(out: str | Path, collector: ProblemCollector, *, replace: bool) -> Path:
    """Return the absolute path, since a worker runs in another folder. Collect a problem if it cannot be written."""
    path = Path(out)
    with collector.collect():
        path = find_output(out)
        if path.exists() and not path.is_dir():
            raise errors.Conflict(f"the path {path} is a file (choose a folder that does not exist yet)")
        if os.path.lexists(path) and not replace:
            fix = f"choose another folder, or replace the earlier result with {write_options({'replace': True})}"
            raise errors.Conflict(f"the path {path} exists already ({fix})")
    return path
