"""Previews: what a base sees of some data, and what a training would do. Nothing is stored."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from finch_hub import errors
from finch_hub.engine.bases.base import DEFAULT_CONTEXT, default_max_length
from finch_hub.engine.bases.fingerprint import compute_fingerprint
from finch_hub.engine.bases.tokenizer import Tokenizer, load_tokenizer
from finch_hub.engine.data.chat import ChatTemplate
from finch_hub.engine.data.example_file import ExampleFile
from finch_hub.engine.data.preview import preview_example
from finch_hub.engine.data.report import make_data_report
from finch_hub.engine.data.tokenizing import TokenizedData, tokenize_data
from finch_hub.engine.training import schedule
from finch_hub.formats.model_files import read_config
from finch_hub.hub.bases import Bases
from finch_hub.hub.examples import DataSource, Progress, check_system, complete_options, read_examples
from finch_hub.hub.training import check_trainings
from finch_hub.registry import version_search
from finch_hub.specs.previews import DataPreview, PreviewRow, TrainingPreview

if TYPE_CHECKING:
    from finch_hub.hub.training_request import TrainingSource
    from finch_hub.specs.examples import Example
    from finch_hub.specs.jobs import BaseModelSource, TrainSpec
    from finch_hub.specs.reports import DataReport
    from finch_hub.storage.stores import Stores

_NUM_EARLIER = 5  # trainings whose speed is taken


def preview_data(
    data: DataSource,
    *,
    base: str | Path,
    revision: str | None,
    system: str | None,
    max_length: int | None,
    limit: int,
    options: Mapping[str, Any],
    progress: Progress | None,
    stores: Stores,
) -> DataPreview:
    """Return the first rows of some data as a base sees them; see `Datasets.preview`."""
    check_system(system)
    folder = _find_folder(base, revision, stores)
    length = _find_length(folder, max_length)
    with ExampleFile() as examples:
        read = read_examples(data, stores, complete_options(options, stores), examples.add, progress=progress)
        rows = _preview_rows(examples, load_tokenizer(folder), system=system, max_length=length, limit=limit)
    return DataPreview(base=str(base), max_length=length, read=read, rows=rows)


def preview_training(
    data: DataSource,
    *,
    adapter: str,
    points: Sequence[Mapping[str, object]],
    limit: int,
    stores: Stores,
    **source: Unpack[TrainingSource],
) -> TrainingPreview:
    """Return what a training would do; see `Hub.preview_training`."""
    seen: dict[str, Any] = {}

    def look(spec: TrainSpec, train: Sequence[Example], held_out: Sequence[Example], place: Path | None) -> None:
        folder = _require_folder(place, spec.base)
        seen["folder"], tokenizer = folder, load_tokenizer(folder)
        length = _find_length(folder, spec.training.max_length)
        seen["data"] = _report_data(spec, tokenizer, train, held_out, max_length=length)
        seen["rows"] = _preview_rows(train, tokenizer, system=spec.system, max_length=length, limit=limit)

    (checked,) = check_trainings(data, adapter=adapter, points=points, stores=stores, look=look, **source)
    spec, requirements = checked.spec, checked.requirements
    report: DataReport = seen["data"]
    return TrainingPreview(
        adapter=spec.adapter,
        base=spec.base.source,
        lora=spec.lora,
        training=spec.training,
        read=spec.reading,
        data=report,
        rows=seen["rows"],
        memory_bytes=requirements.memory_bytes or None,
        seconds=_estimate_seconds(report, spec, seen["folder"], stores),
    )


def _preview_rows(
    examples: Sequence[Example], tokenizer: Tokenizer, *, system: str | None, max_length: int, limit: int
) -> tuple[PreviewRow, ...]:
    template = ChatTemplate(tokenizer)
    if limit < 0:
        raise errors.InvalidSpec("must be 0 or more", where="limit")
    first = enumerate(itertools.islice(examples, limit), start=1)
    return tuple(
        preview_example(example, template, number=number, system=system, max_length=max_length)
        for number, example in first
    )


def _report_data(
    spec: TrainSpec, tokenizer: Tokenizer, train: Sequence[Example], held_out: Sequence[Example], *, max_length: int
) -> DataReport:
    """Return the report that the training would make. As there, too many rows that cannot be used are an error."""
    training = spec.training
    tokenize = functools.partial(
        tokenize_data,
        tokenizer=tokenizer,
        system=spec.system,
        max_length=max_length,
        max_left_out=training.max_bad_rows,
        total=len(train) + len(held_out),
        is_strict=training.strict,
    )
    tokenized, validation = tokenize(train), TokenizedData()
    if held_out:
        validation = tokenize(held_out, subject="validation data", lost_before=tokenized.lost)
    return make_data_report(
        train,
        held_out,
        tokenized.examples,
        lost=tokenized.lost + validation.lost,
        left_out=[*tokenized.left_out, *validation.left_out],
        changes=tokenized.changes + validation.changes,
        steps=schedule.count_steps(training, len(tokenized.examples))[1],
    )


def _estimate_seconds(report: DataReport, spec: TrainSpec, folder: Path, stores: Stores) -> float | None:
    """Estimate the duration by the speed of the newest trainings of the base. None if there are none."""
    fingerprint = compute_fingerprint(folder, cache=stores.bases)
    try:
        with stores.database.read() as session:
            page = version_search.find(session, f"kind:train base:{fingerprint}", sort="-created", limit=_NUM_EARLIER)
    except errors.NotFound:  # the base was never used here
        return None
    measured = [version.metrics for version in page.versions]
    rates = [m["tokens"] / m["seconds"] for m in measured if m.get("tokens") and m.get("seconds")]
    if not rates:
        return None
    steps_of_epoch, steps = schedule.count_steps(spec.training, report.examples)
    seconds = report.tokens * steps / max(steps_of_epoch, 1) / statistics.median(rates)
    return round(float(seconds), 1)


def _find_folder(base: str | Path, revision: str | None, stores: Stores) -> Path:
    source, folder = Bases(stores).resolve(base, revision)
    return _require_folder(folder, source)


def _require_folder(folder: Path | None, source: BaseModelSource) -> Path:
    if folder is None:
        what = f"the files of base {source.source} are not on this machine"
        raise errors.Unavailable(f"{what} (fetch them with `finch-hub bases add`)")
    return folder


def _find_length(folder: Path, max_length: int | None) -> int:
    config = read_config(folder)
    config = config.get("text_config") or config
    context = config.get("max_position_embeddings") or config.get("n_positions")
    return max_length or default_max_length(context if isinstance(context, int) and context > 0 else DEFAULT_CONTEXT)
