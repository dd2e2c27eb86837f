"""Write the base with adapters merged into its weights, and compare the logits of both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import Job, MergeSpec
from finch_hub.specs.reports import MergeReport
from finch_hub.specs.value import Value
from finch_hub.workers.runs import inputs, model_cache, outputs
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import JobKind
from finch_hub.workers.runs.model_cache import BaseOrder
from finch_hub.workers.runs.outputs import OutputOutcome

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class MergeOrder(Value):
    """What the child needs to merge, with the folders of the parents and the repository id of the base.

    Attributes:
        out: folder to write if it is not that of the specification.
    """

    spec: MergeSpec
    base: BaseOrder
    base_id: str | None
    folders: tuple[Path, ...]
    out: Path | None = None


def prepare(spec: MergeSpec, job: Job, stores: Stores, workdir: Path) -> MergeOrder:
    """Fetch the adapters."""
    base, folders = inputs.fetch_files([parent.adapter for parent in spec.parents], stores)
    # An earlier attempt of this job may have published the folder without telling it.
    spec = spec.evolve(replace=spec.replace or job.fence > 1)
    return MergeOrder(
        spec=spec,
        base=model_cache.order_base_of(base, stores),
        base_id=base.hub_id,
        folders=tuple(folders),
        out=outputs.choose_folder(spec, workdir),
    )


def execute(order: MergeOrder, channel: Channel) -> OutputOutcome[MergeReport]:
    """Merge, then compare logits if a float32 copy of the model fits into memory."""
    from finch_hub.engine.export import merging

    base, out = model_cache.fetch_base(order.base, say=channel.phase), order.out or Path(order.spec.out)
    adapters = [(folder, parent.weight) for folder, parent in zip(order.folders, order.spec.parents, strict=True)]
    channel.phase("merging")
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 1.0:
            last = time.monotonic()
            megabytes = {"unit": "MB", "step": done // 10**6, "steps": total // 10**6}
            channel.report(NewEvent(type="progress", data=megabytes))

    report = merging.merge(base, adapters, out, base_model=order.base_id, replace=order.spec.replace, progress=progress)
    if 2 * report.bytes_written * 2 < psutil.virtual_memory().available:
        channel.phase("verifying")
        from finch_hub.engine.export import verification

        verified = verification.verify_merge(base, adapters, out)
        report = report.evolve(
            max_logit_difference=verified.max_logit_difference, argmax_agreement=verified.argmax_agreement
        )
    else:
        text = "the logits were not compared: a copy of the model in float32 does not fit into memory"
        channel.report(NewEvent(type="message", level="warn", message=text))
    return OutputOutcome[MergeReport](report=report.evolve(out=order.spec.out), made=order.out)


KIND = JobKind(
    spec=MergeSpec,
    order=MergeOrder,
    outcome=OutputOutcome[MergeReport],
    report=MergeReport,
    about=lambda spec: f"{' + '.join(parent.adapter for parent in spec.parents)} in {spec.out}",
    prepare=prepare,
    execute=execute,
    finish=outputs.finish,
)
