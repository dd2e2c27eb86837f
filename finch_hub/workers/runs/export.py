"""Write an adapter in the format of another system."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.formats.atomic_writes import atomic_output
from finch_hub.plugins import foreign_code, returned_values
from finch_hub.specs.jobs import ExportSpec, Job
from finch_hub.specs.reports import ExportReport
from finch_hub.specs.value import Value
from finch_hub.workers.runs import model_cache, outputs
from finch_hub.workers.runs.channel import Channel
from finch_hub.workers.runs.job_kind import JobKind
from finch_hub.workers.runs.model_cache import BaseOrder
from finch_hub.workers.runs.outputs import OutputOutcome

if TYPE_CHECKING:
    from finch_hub.plugins.descriptors import ExportFormat
    from finch_hub.registry.values import AdapterVersion, VersionFiles
    from finch_hub.storage.stores import Stores


class ExportOrder(Value):
    """What the child needs to export.

    Attributes:
        adapter: folder with the files of the adapter, and with its card as it is now.
        out: path to write if it is not that of the specification.
    """

    spec: ExportSpec
    adapter: Path
    base: BaseOrder | None
    out: Path | None = None


def prepare(spec: ExportSpec, job: Job, stores: Stores, workdir: Path) -> ExportOrder:
    """Fetch the adapter, and check format and parameters."""
    format_ = stores.catalog.export_formats[spec.format]
    from finch_hub.registry import adapter_versions
    from finch_hub.storage import cards

    with stores.database.read() as session:
        version = adapter_versions.resolve_usable(session, spec.adapter)
    parameters = complete_parameters(format_, spec.parameters, version)
    named = getattr(parameters, "base_model", None) if format_.base_model is not None else None
    card = cards.read_card(version, stores, base=named, is_folded=spec.format == "vllm")
    return ExportOrder(
        spec=spec.evolve(parameters=parameters.model_dump(mode="json")),
        adapter=cards.lay_out(workdir / "adapter", card, stores.artifacts.fetch_tree(version.digest)),
        base=model_cache.order_base_of(version.base, stores) if format_.needs_base else None,
        out=outputs.choose_folder(spec, workdir),
    )


def complete_parameters(
    format_: ExportFormat, parameters: Mapping[str, object], version: VersionFiles | AdapterVersion
) -> Value:
    """Return the parameters of a format, with what the version says instead of those that have no value.

    Raises:
        InvalidSpec: parameters are invalid, or the format cannot hold what the version says.
    """
    given = format_.parse(parameters)
    values: dict[str, object] = {}
    if format_.takes_system:
        values["system"] = version.spec.get("system")
    if format_.base_model is not None:
        values["base_model"] = getattr(version.base, format_.base_model)
    missing = {name: value for name, value in values.items() if getattr(given, name) is None}
    return format_.parse({**given.model_dump(), **missing}) if missing else given


def execute(order: ExportOrder, channel: Channel) -> OutputOutcome[ExportReport]:
    """Export the adapter."""
    format_, out = channel.catalog.export_formats[order.spec.format], order.out or Path(order.spec.out)
    base = model_cache.fetch_base(order.base, say=channel.phase) if order.base else None
    channel.phase("exporting")
    if order.out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    # A format with this parameter knows what to do if something is at the path. Others always find it free.
    knows_others = "replace" in order.spec.parameters
    with contextlib.nullcontext(out) if knows_others else atomic_output(out) as place:
        details = _write(format_, order, base, place)
    details = {name: _relocate(value, place, Path(order.spec.out)) for name, value in details.items()}
    report = ExportReport.of({**details, "format": order.spec.format, "out": order.spec.out})
    return OutputOutcome[ExportReport](report=report, made=order.out)


def _write(format_: ExportFormat, order: ExportOrder, base: Path | None, out: Path) -> dict[str, object]:
    existed = os.path.lexists(out)
    write, parameters = format_.load(), format_.parse(order.spec.parameters)
    try:
        details = write(order.adapter, base, out, parameters)
    except (Exception, SystemExit) as error:
        # What is raised on purpose may mean that the path holds the files of somebody else.
        if not existed and (isinstance(error, errors.PluginError) or not isinstance(error, errors.FinchError)):
            _remove(out)
        if isinstance(error, (errors.FinchError, OSError, MemoryError)):
            raise  # the last two are caused by the machine, so that another attempt may succeed
        raise errors.PluginError(f"{format_.label} failed: {foreign_code.describe(error)}") from error
    if not os.path.lexists(out):
        raise errors.PluginError(f"{format_.label} wrote nothing to {order.spec.out}")
    if details is None:
        return {}
    return returned_values.to_plain(details, owner=format_.label, expected="a report by names")


def _relocate(value: object, made: Path, out: Path) -> object:
    """Return a value of a report with the path that the submitter gave, if it is a path in the output."""
    is_inside = isinstance(value, str) and Path(value).is_relative_to(made)
    return str(out / Path(str(value)).relative_to(made)) if is_inside else value


def _remove(out: Path) -> None:
    """Remove the partial output of a format."""
    if out.is_dir() and not out.is_symlink():
        shutil.rmtree(out, ignore_errors=True)
    else:
        out.unlink(missing_ok=True)


KIND = JobKind(
    spec=ExportSpec,
    order=ExportOrder,
    outcome=OutputOutcome[ExportReport],
    report=ExportReport,
    about=lambda spec: spec.adapter,
    prepare=prepare,
    execute=execute,
    finish=outputs.finish,
)
