"""From what a user asks of a training to its specification; everything that needs no model is checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.engine.bases import memory, target_modules
from finch_hub.engine.data import splitting
from finch_hub.engine.training import schedule
from finch_hub.hub import examples as data_module
from finch_hub.hub.problems import Findings
from finch_hub.specs.examples import Example
from finch_hub.specs.jobs import BaseModelSource, Requirements, TrainSpec
from finch_hub.specs.lora import LEAST_HELD_OUT, LoRAConfig
from finch_hub.specs.references import check_name
from finch_hub.specs.training import TrainingConfig

if TYPE_CHECKING:
    from finch_hub.hub.bases import Bases
    from finch_hub.plugins.descriptors import Preset
    from finch_hub.storage.stores import Stores


def configure(
    preset: Preset | None, overrides: Mapping[str, Any], findings: Findings
) -> tuple[LoRAConfig, TrainingConfig]:
    """Return the preset's configuration with the overrides, each put where its name belongs."""
    unknown = overrides.keys() - LoRAConfig.model_fields.keys() - TrainingConfig.model_fields.keys()
    known = [*LoRAConfig.model_fields, *TrainingConfig.model_fields]
    for name in sorted(unknown):
        near = errors.near(name, known)
        fix = f"did you mean {' or '.join(near)}?" if near else "see LoRAConfig and TrainingConfig"
        findings.add(errors.Problem(where=name, what="is no setting of a training", fix=fix))
    lora, training = (preset.lora, preset.training) if preset else (LoRAConfig(), TrainingConfig())
    with findings.gather():
        lora = lora.evolve(**{k: v for k, v in overrides.items() if k in LoRAConfig.model_fields})
    with findings.gather():
        training = training.evolve(**{k: v for k, v in overrides.items() if k in TrainingConfig.model_fields})
    return lora, training


def prepare(
    data: data_module.Data,
    *,
    adapter: str,
    base: str | Path,
    revision: str | None,
    preset: str | None,
    validation: data_module.Data | float | None,
    system: str | None,
    format_name: str | None,
    overrides: Mapping[str, Any],
    requirements: Requirements,
    stores: Stores,
    bases: Bases,
) -> tuple[TrainSpec, list[data_module.Stored], Requirements]:
    """Check the request and store its examples; return the specification and what is to be registered.

    The requirements come back with the memory that the training is estimated to need, where they say none and the
    base is at hand.

    Nothing is stored before everything is found right.

    Raises:
        InvalidInput: with everything that is wrong.
        NotFound: where one thing that was named is missing, and nothing else is wrong.

    """
    findings = Findings("this training")
    with findings.gather():
        check_name(adapter)
    chosen: Preset | None = None
    with findings.gather():
        chosen = stores.catalog.presets[preset] if preset is not None else None
    if isinstance(validation, float | int):
        overrides, validation = {**overrides, "validation": validation}, None
    lora, training = configure(chosen, overrides, findings)
    if requirements.together:
        _check_together(lora, training, findings)
    source = BaseModelSource(source=str(base) or "?", revision=revision)
    folder: Path | None = None
    with findings.gather():
        source, folder = bases.resolve(base, revision)
        if folder is not None:
            target_modules.match(lora, target_modules.linear_modules(folder))
    train: tuple[Example, ...] = ()
    held_out: tuple[Example, ...] = ()
    with findings.gather():
        train = data_module.read(data, stores, format_name=format_name)
    if validation is not None:
        with findings.gather():
            held_out = data_module.read(validation, stores, format_name=format_name)
    elif "validation" not in overrides and data_module.has_validation(data):
        with findings.gather():
            held_out = data_module.read(data, stores, format_name=format_name, split="validation")
    elif train and training.validation:
        train, held_out = splitting.split(train, training.validation, training.seed)
    if train:
        for problem in schedule.check(training, examples=len(train), held_out=len(held_out)):
            findings.add(problem)
        if lora.rank == "auto" and len(held_out) < LEAST_HELD_OUT:
            what = f"choosing a rank takes {LEAST_HELD_OUT} validation examples, and there are {len(held_out)}"
            findings.add(errors.Problem(where="rank", what=what, fix="give more of them, or a number"))
    findings.settle()
    stored = [
        data_module.store(examples, stores, format_name=format_name) for examples in (train, held_out) if examples
    ]
    spec = TrainSpec(
        adapter=adapter,
        base=source,
        train=stored[0].digest,
        validation=stored[1].digest if len(stored) > 1 else None,
        preset=preset,
        system=system if system is not None else chosen.system if chosen else None,
        lora=lora,
        training=training,
    )
    shape = memory.shape_of(folder) if folder is not None and not requirements.memory_bytes else None
    if shape is not None:
        need = memory.training_memory(
            shape, lora, training, longest=_longest((*train, *held_out)), cuda=requirements.device != "cpu"
        )
        requirements = requirements.evolve(memory_bytes=need.total)
    return spec, stored, requirements


def _check_together(lora: LoRAConfig, training: TrainingConfig, findings: Findings) -> None:
    """What `engine.training.gang.can_join` would say of it, in so far as it can be told without the base."""
    obstacles = {
        "use_dora": lora.use_dora,
        "init=eva": lora.init == "eva",
        "rank=auto": lora.rank == "auto",
        "gradient_checkpointing": training.gradient_checkpointing,
        "packing=false": not training.packing,
    }
    for name, there in obstacles.items():
        if there:
            what = f"a training with {name} cannot be done in one step with others"
            findings.add(errors.Problem(where="together", what=what, fix="leave out one of the two"))


def _longest(examples: Sequence[Example]) -> int:
    """Return about how many tokens the longest example has at most: few tokens are shorter than three bytes."""
    return max(
        len((example.text or "").encode()) // 3
        + sum(len(message.content.encode()) // 3 + 16 for message in example.messages)
        + 32
        for example in examples
    )
