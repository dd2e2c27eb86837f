"""Write the base with adapters folded in, and hold its logits against theirs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil

from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, MergeSpec
from finch_hub.workers.runs import model_cache

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores
    from finch_hub.workers.runs.channel import Channel

_REPORT_SECONDS = 1.0


def prepare(job: Job, stores: Stores, workdir: Path) -> dict[str, Any]:
    """Fetch the adapters."""
    from finch_hub.workers.runs import common

    spec = cast(MergeSpec, job.spec)
    found = [(*common.fetch_files(parent.adapter, stores), parent.weight) for parent in spec.parents]
    common.check_one_base([version for version, _, _ in found])
    return {
        "base": common.base_order_of(found[0][0].base, stores),
        "adapters": [(str(folder), weight) for _, folder, weight in found],
        "out": spec.out,
        # An earlier attempt of this job may have come as far as the folder's name, and no further.
        "replace": spec.replace or job.fence > 1,
    }


def execute(order: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Merge, then compare logits where a float32 copy of the model fits into memory."""
    from finch_hub.engine.export import merging

    base = model_cache.fetch_base(order["base"], say=channel.phase)
    adapters = [(Path(folder), weight) for folder, weight in order["adapters"]]
    out = Path(order["out"])
    channel.phase("merging")
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _REPORT_SECONDS:
            last = time.monotonic()
            channel.report(NewEvent(type="progress", data={"step": done, "steps": total}))

    report = merging.merge(
        base, adapters, out, base_model=order["base"]["source"]["source"], replace=order["replace"], progress=progress
    )
    if 2 * report.bytes_written * 2 < psutil.virtual_memory().available:
        channel.phase("verifying")
        from finch_hub.engine.export import verification

        found = verification.verify(base, adapters, out)
        report = report.evolve(max_logit_difference=found.max_logit_difference, argmax_agreement=found.argmax_agreement)
    else:
        what = "the logits were not compared: a copy of the model in float32 does not fit into memory"
        channel.report(NewEvent(type="message", level="warn", message=what))
    return {"report": report.model_dump(mode="json")}


def record(session: Session, job: Job, outcome: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Return the report."""
    return {"merge": outcome["report"]}
