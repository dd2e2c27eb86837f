"""Hooks of this plugin, without torch so that plugins are listed fast."""

from __future__ import annotations

from collections.abc import Sequence

from finch_hub.plugins.descriptors import (
    BaseSource,
    DatasetFormat,
    Evaluator,
    ExportFormat,
    Listener,
    Preset,
    Resolver,
    Strategy,
)
from finch_hub.plugins.hooks import hookimpl
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig
from finch_sample.parameters import LevelParameters, TableParameters


@hookimpl
def finch_presets() -> Sequence[Preset]:
    return [
        Preset(
            name="support",
            summary="Answers of a help desk: short, polite, with the next step.",
            system="You work at a help desk. Answer in at most three sentences and name the next step.",
            lora=LoRAConfig(rank=8, alpha=16.0),
            training=TrainingConfig(epochs=2),
            generation=GenerationConfig(max_new_tokens=120),
            reasons={
                "system": "Answers of a help desk are short and end with the next step.",
                "lora.rank": "One register and a few hundred products fit into rank 8.",
                "lora.alpha": "Twice the rank, so that the scale equals that of the other presets.",
                "training.epochs": "Answers are similar; a third pass starts to copy names.",
                "generation.max_new_tokens": "Three sentences.",
            },
        )
    ]


@hookimpl
def finch_strategies() -> Sequence[Strategy]:
    return [
        Strategy(
            name="strongest",
            summary="Takes each entry from the parent with the largest magnitude.",
            target="finch_sample.kernels:strongest",
        )
    ]


@hookimpl
def finch_resolvers() -> Sequence[Resolver]:
    return [
        Resolver(
            name="level",
            summary="Scales all parents of a module to the same norm.",
            target="finch_sample.kernels:level",
            parameters=LevelParameters,
        )
    ]


@hookimpl
def finch_dataset_formats() -> Sequence[DatasetFormat]:
    return [
        DatasetFormat(
            name="faq",
            summary="A question and a list of answers. The first answer is learned.",
            recognizes=frozenset({"question", "answers"}),
            target="finch_sample.formats:faq",
        )
    ]


@hookimpl
def finch_base_sources() -> Sequence[BaseSource]:
    return [
        BaseSource(
            name="archive",
            summary="A zip or tar archive of a model folder, given as archive:PATH.",
            matches="finch_sample.sources:is_archive",
            target="finch_sample.sources:fetch",
        )
    ]


@hookimpl
def finch_export_formats() -> Sequence[ExportFormat]:
    return [
        ExportFormat(
            name="table",
            summary="A CSV table of the adapted modules, with ranks and scales.",
            target="finch_sample.exports:write",
            parameters=TableParameters,
        )
    ]


@hookimpl
def finch_evaluators() -> Sequence[Evaluator]:
    return [
        Evaluator(
            name="brevity",
            summary="Generates an answer to each prompt and counts its words.",
            target="finch_sample.evaluators:brevity",
        )
    ]


@hookimpl
def finch_listeners() -> Sequence[Listener]:
    return [
        Listener(
            name="journal",
            summary="Appends each state to the file that FINCH_SAMPLE_JOURNAL names.",
            target="finch_sample.listeners:listen",
        )
    ]
