"""Write an adapter in the format of another system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from finch_hub import errors
from finch_hub.specs.jobs import ExportSpec, Job
from finch_hub.workers.runs import model_cache

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel


def prepare(job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
    """Fetch the adapter, and check format and parameters."""
    from finch_hub.workers.runs import common

    spec = cast(ExportSpec, job.spec)
    format_ = stores.catalog.export_formats[spec.format]
    parameters = format_.parse(spec.parameters)
    # An earlier attempt of this job may have come as far as the folder's name, and no further.
    if job.fence > 1 and "replace" in format_.parameters.model_fields:
        parameters = parameters.evolve(replace=True)
    version, folder = common.fetch_files(spec.adapter, stores)
    return {
        "format": spec.format,
        "parameters": parameters.model_dump(mode="json"),
        "adapter": str(folder),
        "base": common.base_order_of(version.base, stores) if format_.needs_base else None,
        "out": spec.out,
    }


def execute(order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Export."""
    format_ = channel.catalog.export_formats[order["format"]]
    base = model_cache.fetch_base(order["base"], say=channel.phase) if order["base"] else None
    channel.phase("exporting")
    out = Path(order["out"])
    stood = os.path.lexists(out)
    try:
        report = format_.load()(Path(order["adapter"]), base, out, format_.parse(order["parameters"]))
    except errors.FinchError:
        raise  # it knew what it did, and what stands there now may be somebody else's
    except (Exception, SystemExit) as error:
        if not stood:
            _remove(out)
        if isinstance(error, (OSError, MemoryError)):
            raise  # the machine's fault, which may be worth another attempt
        raise errors.PluginError(f"the export format {format_.name} failed: {type(error).__name__}: {error}") from error
    if not os.path.lexists(out):
        raise errors.PluginError(f"the export format {format_.name} wrote nothing to {out}")
    return {"report": {"format": order["format"], "out": order["out"], **(report or {})}}


def _remove(out: Path) -> None:
    """Remove what a format left half-written."""
    if out.is_dir() and not out.is_symlink():
        shutil.rmtree(out, ignore_errors=True)
    else:
        out.unlink(missing_ok=True)


def record(session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Return the report."""
    return {"export": outcome["report"]}
