"""Commands and settings files that submit a job again."""

from __future__ import annotations

import shlex
import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest

from finch_hub.cli.train import train
from finch_hub.display import commands
from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import STYLE
from finch_hub.specs import jobs
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

DIGEST = "a" * 64


def job_of(spec: jobs.JobSpec, **fields: Any) -> jobs.Job:
    stored = spec.model_dump(mode="json")
    known = {"id": "x", "kind": spec.kind, "state": jobs.JobState.SUCCEEDED, "created_at": datetime.now(UTC)}
    return jobs.Job.of({**known, "spec": stored, **fields})


def train_spec(**fields: Any) -> jobs.TrainSpec:
    return jobs.TrainSpec(adapter="birds", base=jobs.BaseModelSource(source="tiny"), train=DIGEST, **fields)


def evolve_style(**training: Any) -> Preset:
    return STYLE.evolve(training=STYLE.training.evolve(**training))


def write(spec: jobs.JobSpec, **fields: Any) -> str:
    command = commands.write_command(spec, job=job_of(spec, **fields))
    assert command is not None
    return command


def test_command_has_what_differs_from_the_defaults() -> None:
    training = TrainingConfig(epochs=2, weight_decay=0.1)
    spec = train_spec(lora=LoRAConfig(rank=8, target_modules="all-linear"), training=training)
    assert write(spec, priority=3) == (
        f"finch-hub train {DIGEST} --adapter birds --base tiny --rank 8 --target-modules all-linear"
        " --epochs 2 --set weight_decay=0.1 --priority 3"
    )


def test_command_with_an_unknown_preset_has_all_settings_and_no_preset() -> None:
    assert " --preset " not in write(train_spec(preset="gone"))
    assert " --rank 16 " in write(train_spec(preset="gone"))
    assert "preset" not in commands.name_settings(train_spec(preset="gone"))


def test_command_with_a_known_preset_has_what_differs_from_it() -> None:
    spec = train_spec(preset="style", lora=STYLE.lora, training=STYLE.training.evolve(seed=5), system=STYLE.system)
    assert commands.write_command(spec, STYLE) == (
        f"finch-hub train {DIGEST} --adapter birds --base tiny --preset style --seed 5"
    )


def test_settings_without_a_value_replace_those_of_a_preset() -> None:
    preset = evolve_style(max_length=512)
    command = commands.write_command(train_spec(preset="style", lora=STYLE.lora, system="S"), preset)
    assert command is not None
    assert command.endswith(" --set max_length=null")


@pytest.mark.parametrize(
    ("preset", "system"),
    [(evolve_style(strict=True), "S"), (evolve_style(patience=2), "S"), (STYLE, None)],
    ids=["strict", "patience", "system"],
)
def test_preset_with_a_value_that_nothing_takes_back(preset: Preset, system: str | None) -> None:
    """No option does, and a settings file without the preset does."""
    spec = train_spec(preset="style", lora=preset.lora, training=STYLE.training, system=system)
    assert commands.write_command(spec, preset) is None
    assert "preset" not in commands.name_settings(spec, preset)
    assert commands.name_settings(spec.evolve(system="S"), STYLE)["preset"] == "style"


def test_system_prompt_of_a_training_from_a_version_is_always_given() -> None:
    """That of the version would come before that of the preset."""
    spec = train_spec(preset="style", start="birds/1", system=STYLE.system, training=STYLE.training)
    command = commands.write_command(spec, STYLE)
    assert command is not None
    assert " --system " in command


def test_training_from_a_version_has_its_base_and_shape() -> None:
    command = write(train_spec(start="birds/1", training=TrainingConfig(seed=4)))
    assert "--start birds/1" in command
    assert "--base" not in command
    assert "--rank" not in command


def test_requirements_are_in_the_command() -> None:
    required = jobs.Requirements(memory_bytes=10**9, labels=("a100", "fast"), together=True, time_limit=90.0)
    stored = required.model_dump(mode="json")
    ending = "--memory-bytes 1000000000 --label a100 --label fast --time-limit 90.0"
    assert write(train_spec(), requirements=stored).endswith(f"{ending} --together")
    composed = jobs.ComposeSpec(adapter="c", parents=(jobs.Parent(adapter="a/1"),))
    assert write(composed, requirements=stored).endswith(ending)


@pytest.mark.parametrize("is_estimated", [True, False])
def test_memory_of_a_training_is_estimated_anew_if_it_was(is_estimated: bool) -> None:
    required = jobs.Requirements(memory_bytes=10**9, is_memory_estimated=is_estimated)
    job = job_of(train_spec(), requirements=required.model_dump(mode="json"))
    assert ("memory_bytes" in commands.name_settings(train_spec(), job=job)) is not is_estimated


def test_evaluation_of_a_pinned_base_names_its_revision() -> None:
    spec = jobs.EvaluateSpec(base=jobs.BaseModelSource(source="org/tiny", revision="v1"), dataset=DIGEST)
    assert commands.name_settings(spec)["revision"] == "v1"
    assert write(spec) == f"finch-hub eval {DIGEST} --base org/tiny --revision v1"


def test_weights_parameters_and_replacement_are_options() -> None:
    parents = (jobs.Parent(adapter="a/1", weight=0.5), jobs.Parent(adapter="b/2"))
    composed = jobs.ComposeSpec(adapter="c", parents=parents, strategy="ties", parameters={"density": 0.3})
    assert write(composed) == (
        "finch-hub compose a/1 b/2 --adapter c --strategy ties --parameter density=0.3 --weights 0.5,1.0"
    )
    exported = jobs.ExportSpec(adapter="a/1", out="/my folder", format="peft", parameters={"replace": True})
    assert write(exported) == "finch-hub export a/1 --out '/my folder' --format peft --replace"
    assert write(jobs.QuantizeSpec(adapter="a/1", group=None)) == "finch-hub quantize a/1 --group 0"


@pytest.mark.parametrize(
    "text", ["plain", "with space", "it's", 'a "b" \\ c', "two\nlines", "bell\x07", "\u202ebidi", "\U000e0001"]
)
def test_texts_stay_themselves_and_are_visible(text: str) -> None:
    (line,) = commands.write_settings({"system": text})
    assert tomllib.loads(line) == {"system": text}
    assert line.isprintable()
    assert commands.quote(text).isprintable()
    if text.isprintable():
        assert shlex.split(commands.quote(text)) == [text]


def test_nested_settings_are_toml() -> None:
    settings = {"rank_pattern": {"q_proj": 4}, "labels": ["a", "b"], "packing": True, "scale": 0.5, "x": {}}
    assert tomllib.loads("\n".join(commands.write_settings(settings))) == settings


def test_settings_without_an_option_are_all_named() -> None:
    fields = {*LoRAConfig.model_fields, *TrainingConfig.model_fields}
    options = {parameter.name for parameter in train.params if not getattr(parameter, "hidden", False)}
    assert fields - options - {"strict", "max_bad_rows"} == commands.WITHOUT_OPTION
