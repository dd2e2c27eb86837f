"""Requests for trainings, checked as far as possible without loading the base."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finch_hub import errors
from finch_hub.engine.bases import memory, module_layout, target_modules, weight_shapes
from finch_hub.engine.data import splitting
from finch_hub.engine.data.chat import has_reasoning
from finch_hub.engine.data.data_folders import Split
from finch_hub.engine.data.example_file import ExampleFile
from finch_hub.engine.training import schedule
from finch_hub.hub.bases import Bases
from finch_hub.hub.examples import (
    DataSource,
    Progress,
    StoredExamples,
    check_system,
    has_validation,
    is_stored,
    read_examples,
    store_examples,
)
from finch_hub.hub.problems import ProblemCollector
from finch_hub.hub.starting_version import StartingVersion, read_start
from finch_hub.registry import adapter_names
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, Requirements, TrainSpec
from finch_hub.specs.lora import LEAST_HELD_OUT, LoRAConfig
from finch_hub.specs.options import name_option
from finch_hub.specs.reading import LIMITS, ReadingConfig
from finch_hub.specs.reports import ReadingReport
from finch_hub.specs.training import TrainingConfig

if TYPE_CHECKING:
    from finch_hub.formats.base_layout import BaseLayout
    from finch_hub.plugins.descriptors import Preset
    from finch_hub.storage.stores import Stores

Look = Callable[[TrainSpec, Sequence[Example], Sequence[Example], Path | None], None]
"""Called with a specification, its training examples and those that are held out."""
_SHARE = re.compile(r"[0-9]*[.,][0-9]+|[0-9.,]+ ?%")


class CheckedTraining(NamedTuple):
    """A training that can be submitted: its specification, stored examples, and requirements with estimated memory."""

    spec: TrainSpec
    examples: tuple[StoredExamples, ...]
    requirements: Requirements


def check_trainings(
    data: DataSource,
    *,
    adapter: str,
    points: Sequence[Mapping[str, object]],
    stores: Stores,
    base: str | Path | None = None,
    revision: str | None = None,
    start: str | None = None,
    preset: str | None = None,
    validation: DataSource | float | None = None,
    system: str | None = None,
    requirements: Requirements | None = None,
    progress: Progress | None = None,
    together_if_possible: bool = False,
    needs_held_out: bool = False,
    look: Look | None = None,
) -> list[CheckedTraining]:
    """Check a request for trainings on the same examples, and store them; see `Hub.train`.

    Nothing is stored if the request has problems. The settings of the first point say how data are read and divided.

    Args:
        points: settings of each training that override the preset's.
        together_if_possible: whether trainings that can run in one step with others may do so.
        needs_held_out: whether trainings without held-out examples are refused.
        look: called with the first specification, the examples, which are not stored then, and the folder of the base
            if it is on this machine.
    """
    collector, requirements = ProblemCollector("this training"), requirements or Requirements()
    with collector.collect(), stores.database.read() as session:
        adapter_names.check_free(session, adapter)
    with collector.collect():
        check_system(system)
    chosen: Preset | None = None
    with collector.collect():
        chosen = stores.catalog.presets[preset] if preset is not None else None
    if isinstance(validation, float | int):
        points, validation = [{**point, "validation": validation} for point in points], None
    elif isinstance(validation, str) and _SHARE.fullmatch(validation) and not Path(validation).exists():
        what = f"{validation!r} is neither data nor a number"
        collector.add(errors.Problem(where="validation", what=what, fix="write a share as a number, such as 0.2"))
        validation = None
    if chosen is None or "max_bad_rows" not in chosen.training.model_fields_set:
        points = [{"max_bad_rows": stores.settings.max_bad_rows, **point} for point in points]
    started: StartingVersion | None = None
    with collector.collect():
        started = read_start(start, stores) if start is not None else None
    settings = [_make_settings(chosen, started, start, point, collector) for point in points]
    overrides, (_, training) = points[0], settings[0]
    limits = {name: getattr(training, name) for name in LIMITS}
    reading = ReadingConfig()
    with collector.collect():
        options = {name: value for name, value in overrides.items() if name in ReadingConfig.model_fields}
        reading = ReadingConfig.of({**options, **limits}, subject="the data")
    if requirements.together:
        for lora, each in settings:
            _check_together(lora, each, collector, starts=start is not None)
    source = BaseModelSource(source=str(base or "?"), revision=revision)
    folder: Path | None = None
    layout: BaseLayout | None = None
    with collector.collect():
        if started is not None:
            source, folder = started.find_base(base, revision, stores)
        elif base is not None:
            source, folder = Bases(stores).resolve(base, revision)
        elif start is None:
            what = f"neither {name_option('base')} nor {name_option('start')} is given"
            fix = "name the base of the new adapter, or a version to train further"
            raise errors.InvalidSpec(what, where="base", fix=fix)
        if folder is not None:
            layout = module_layout.read_layout(folder, name=str(base or source.source), cache=stores.bases)
            for lora, _ in settings:
                with collector.collect():
                    target_modules.match(lora, layout)
                    if requirements.together and target_modules.names_head(lora, layout):
                        what = "an adapter of the head cannot be combined with together"
                        collector.add(errors.Problem(where="together", what=what, fix="remove together, or the head"))
    sources: tuple[set[str], set[str]] = set(), set()
    with contextlib.ExitStack() as stack:
        train, held_out, report = _read_parts(
            data, validation, training, reading, overrides, stores, collector, progress, sources, stack
        )
        if report is not None:
            if needs_held_out and not held_out:
                what, fix = "no examples are held out, so nothing can be compared", "hold out a share, such as 0.1"
                collector.add(errors.Problem(where="validation", what=what, fix=fix))
            for lora, each in settings:
                for problem in schedule.find_problems(each, examples=len(train), held_out=len(held_out)):
                    collector.add(problem)
                if lora.rank == "auto" and len(held_out) < LEAST_HELD_OUT:
                    what = f"rank auto needs {LEAST_HELD_OUT} validation examples, found {len(held_out)}"
                    fix = "add validation examples or set a number"
                    collector.add(errors.Problem(where="rank", what=what, fix=fix))
        collector.raise_problems()
        read = report or ReadingReport(rows=len(train))
        store = functools.partial(store_examples, stores=stores, report=read, keeps=look is None)
        stored = tuple(
            store(part, made_of=made_of) for part, made_of in zip((train, held_out), sources, strict=True) if part
        )
        longest = max(map(_max_tokens, itertools.chain(train, held_out)))
        thinking = any(has_reasoning(message) for example in train for message in example.messages)
        if system is None and started is not None:
            system = started.version.spec.get("system")
        if system is None and chosen is not None:
            system = chosen.system
        if started is not None:
            thinking = thinking or bool(started.version.spec.get("thinking"))
        shape = weight_shapes.read_base_shape(folder, layout) if folder is not None and layout is not None else None
        checked = []
        for lora, each in settings:
            spec = TrainSpec(
                adapter=adapter,
                base=source,
                train=stored[0].digest,
                validation=stored[1].digest if len(stored) > 1 else None,
                start=started.reference if started is not None else None,
                preset=preset,
                system=system,
                lora=lora,
                training=each,
                thinking=thinking,
                reading=report,
            )
            needed = requirements
            if shape is not None and not requirements.memory_bytes:
                cuda = requirements.device != "cpu"
                estimate = memory.estimate_training_memory(shape, lora, each, longest=longest, cuda=cuda)
                needed = requirements.evolve(memory_bytes=estimate.total, is_memory_estimated=True)
            if together_if_possible:
                adapts_head = layout is not None and target_modules.names_head(lora, layout)
                is_alone = adapts_head or bool(_find_obstacles(lora, each, starts=started is not None))
                needed = needed.evolve(together=not is_alone)
            checked.append(CheckedTraining(spec, stored, needed))
        if look is not None:
            look(checked[0].spec, train, held_out, folder)
    return checked


def _read_parts(
    data: DataSource,
    validation: DataSource | None,
    training: TrainingConfig,
    reading: ReadingConfig,
    overrides: Mapping[str, object],
    stores: Stores,
    collector: ProblemCollector,
    progress: Progress | None,
    sources: tuple[set[str], set[str]],
    stack: contextlib.ExitStack,
) -> tuple[ExampleFile, ExampleFile, ReadingReport | None]:
    """Return the examples to train on and those held out, in files that the stack closes; no report if it failed.

    Args:
        sources: get the digests of the stored data sets that the examples of each part are from.
    """
    train, held_out = stack.enter_context(ExampleFile()), stack.enter_context(ExampleFile())
    report: ReadingReport | None = None
    is_split = False
    with collector.collect():
        is_split = validation is None and "validation" not in overrides and has_validation(data, stores, reading)
        also_read: Split | None = "validation" if is_split else None
        beside_file = validation is not None and not is_stored(validation)
        report = read_examples(
            data,
            stores,
            reading,
            train.add,
            also_read=also_read,
            progress=progress,
            beside_file=beside_file,
            made_of=sources[0],
        )
    read_held_out = functools.partial(
        read_examples,
        stores=stores,
        config=reading,
        keep=held_out.add,
        progress=progress,
        checks_ignored=False,
        made_of=sources[1],
    )
    if validation is not None:
        with collector.collect():
            read_held_out(validation, beside_file=not is_stored(data))
    elif is_split:
        with collector.collect():
            read_held_out(data, split="validation")
    elif report is not None and training.validation:
        parts = (stack.enter_context(ExampleFile()), held_out)
        is_held_out = splitting.choose_held_out(train, training.validation, training.seed)
        for example, is_out in zip(train, is_held_out.tolist(), strict=True):
            parts[is_out].add(example)
        train = parts[0]
        sources[1].update(sources[0])
    return train, held_out, report


def _make_settings(
    preset: Preset | None,
    started: StartingVersion | None,
    start: str | None,
    overrides: Mapping[str, object],
    collector: ProblemCollector,
) -> tuple[LoRAConfig, TrainingConfig]:
    """Return shape and training of one point: the preset's or those of the version to start from, with overrides."""
    lora, training = _apply_overrides(preset, overrides, collector)
    if started is not None:
        for problem in started.find_problems(overrides):
            collector.add(problem)
        lora = started.shape(overrides)
    elif lora.init == "start" and start is None:
        what = f"'start' is for a training with {name_option('start')}"
        collector.add(errors.Problem(where="init", what=what, fix="choose another value, or name a version"))
    return lora, training


def _apply_overrides(
    preset: Preset | None, overrides: Mapping[str, object], collector: ProblemCollector
) -> tuple[LoRAConfig, TrainingConfig]:
    known = [*LoRAConfig.model_fields, *TrainingConfig.model_fields, *ReadingConfig.model_fields]
    for name in sorted(overrides.keys() - set(known)):
        near = errors.near(name, known)
        fix = f"did you mean {' or '.join(near)}?" if near else "see LoRAConfig and TrainingConfig"
        collector.add(errors.Problem(where=name, what="is not a training setting", fix=fix))
    lora, training = (preset.lora, preset.training) if preset else (LoRAConfig(), TrainingConfig())
    with collector.collect():
        lora = lora.evolve(**{k: v for k, v in overrides.items() if k in LoRAConfig.model_fields})
    with collector.collect():
        training = training.evolve(**{k: v for k, v in overrides.items() if k in TrainingConfig.model_fields})
    return lora, training


def _check_together(lora: LoRAConfig, training: TrainingConfig, collector: ProblemCollector, *, starts: bool) -> None:
    """Collect settings that rule out training in one step with other jobs. The base may rule out more."""
    for setting in _find_obstacles(lora, training, starts=starts):
        what = f"{setting} cannot be combined with together"
        collector.add(errors.Problem(where="together", what=what, fix=f"remove together or {setting}"))


def _find_obstacles(lora: LoRAConfig, training: TrainingConfig, *, starts: bool) -> list[str]:
    obstacles = {
        "use_dora": lora.use_dora,
        "init=eva": lora.init == "eva",
        "rank=auto": lora.rank == "auto",
        "gradient_checkpointing": training.gradient_checkpointing,
        "packing=false": not training.packing,
        name_option("start"): starts,
    }
    return [setting for setting, is_set in obstacles.items() if is_set]


def _max_tokens(example: Example) -> int:
    """Return an upper estimate of an example's tokens. Few tokens are shorter than three bytes."""
    return len(example.model_dump_json(exclude_defaults=True).encode()) // 3 + 16 * len(example.messages) + 32
