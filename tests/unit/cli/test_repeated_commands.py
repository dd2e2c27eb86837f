"""Commands that repeat jobs: what a report prints is parsed into the specification that it was made of."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from support import commands as parsing
from support import registry

from finch_hub import Hub
from finch_hub.display.commands import write_command
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import BaseModelSource, ComposeSpec, JobSpec, Parent, ReproduceSpec, TrainSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig
from finch_hub.workers.runs import kinds

from .conftest import Run

pytestmark = pytest.mark.filterwarnings(
    "default::finch_hub.specs.reading.DataWarning", "default::finch_hub.specs.lora.UnusualValueWarning"
)

DIGEST = "0" * 64
TINY = BaseModelSource(source="tiny")


def submit(run: Run, *words: object) -> dict[str, Any]:
    """Submit a job with a command and return its specification."""
    ran = run(*words, "--detach", "--json")
    assert ran.status == 0, ran.err
    spec: dict[str, Any] = ran.json["spec"]
    return spec


def write(spec: dict[str, Any]) -> list[str]:
    """Return the words of the command that repeats a job."""
    typed = kinds.kind_of(spec["kind"]).spec_of(spec)
    with Hub() as hub:
        preset = hub.catalog.presets[spec["preset"]] if spec.get("preset") else None
    command = write_command(typed, preset)
    assert command is not None
    words = parsing.split(command)
    assert words[0] == "finch-hub"
    return words[1:]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--preset", "style", "--validation", "0.2"),
        ("--preset", "style", "--rank", "4", "--alpha", "8", "--seed", "3", "--max-bad-rows", "0.5", "--strict"),
        ("--rank", "8", "--alpha", "3.5", "--dropout", "0.1", "--target-modules", "q_proj,v_proj,o_proj"),
        ("--target-modules", "all-linear", "--epochs", "1", "--learning-rate", "1e-5", "--batch-size", "2"),
        ("--target-modules", r".*\.(q|v)_proj"),
        ("--target-modules", "mlp", "--max-steps", "7", "--patience", "2"),
        ("--validation", "0"),
        ("--set", "rank_pattern={\"q_proj\": 4}", "--set", "use_rslora=true", "--set", "schedule=linear"),
        ("--set", "layers_to_transform=[0]", "--set", "evaluate_every=0.5", "--set", "samples=2"),
        ("--system", "Answer 'as a' lawyer; $(rm -rf /) `x` \"y\"\nIn two lines."),
    ],
)  # fmt: skip
def test_training_is_repeated(run: Run, data: Path, tiny_folder: Path, words: tuple[str, ...]) -> None:
    spec = submit(run, "train", data, "--adapter", "team/birds", "--base", tiny_folder, *words)
    again = submit(run, *write(spec))
    # The held-out rows are given, and no share of other rows. They were read from a file before.
    for part in (spec, again):
        part.pop("reading")
        part["training"].pop("validation")
    assert again == spec


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--weights", "1,-0.25", "--strategy", "ties", "--parameter", "density=0.4", "--scale", "0.7"),
        ("--strategy", "linear", "--rank", "auto", "--evaluations", "3", "--min-retention", "0.5", "--seed", "9"),
        ("--resolver", "priority", "--rank", "4"),
    ],
)
def test_composition_is_repeated(run: Run, database: Database, words: tuple[str, ...]) -> None:
    for name in ("medical", "legal"):
        registry.add_version(database, name, metrics={"rank": 4})
    spec = submit(run, "compose", "medical/1", "legal", "--adapter", "both", *words)
    assert submit(run, *write(spec)) == spec


@pytest.mark.parametrize(
    "words",
    [
        ("merge", "medical", "legal", "--out", "a folder", "--weights", "0.5,2"),
        ("merge", "medical", "--out", "m", "--replace"),
        ("export", "medical", "--out", "it's"),
        ("export", "medical", "--out", "e", "--format", "vllm", "--replace"),
        ("export", "medical", "--out", "e", "--format", "gguf", "--parameter", "dtype=f16"),
        ("quantize", "medical"),
        ("quantize", "medical", "--group", "0"),
        ("quantize", "medical", "--scheme", "int4", "--group", "32", "--tolerance", "0.1"),
    ],
)
def test_output_is_repeated(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("medical", "legal"):
        registry.add_version(database, name, metrics={"rank": 4})
    spec = submit(run, *words)
    assert submit(run, *write(spec)) == spec


@pytest.mark.parametrize(
    "words",
    [
        ("--adapter", "medical"),
        ("--adapter", "medical/1", "--adapter", "legal", "--evaluator", "exact_answer", "--system", "-s"),
    ],
)
def test_evaluation_is_repeated(run: Run, database: Database, data: Path, words: tuple[str, ...]) -> None:
    for name in ("medical", "legal"):
        registry.add_version(database, name)
    spec = submit(run, "eval", data, *words)
    assert submit(run, *write(spec)) == spec


def test_evaluation_of_a_base_is_repeated(run: Run, data: Path, tiny_folder: Path) -> None:
    spec = submit(run, "eval", data, "--base", tiny_folder)
    assert submit(run, *write(spec)) == spec


def test_evaluation_of_a_pinned_base_is_repeated(run: Run, data: Path) -> None:
    spec = submit(run, "eval", data, "--base", "org/tiny", "--revision", "v1")
    assert spec["base"] == {"source": "org/tiny", "revision": "v1"}
    assert submit(run, *write(spec)) == spec
    refused = run("eval", data, "--adapter", "medical", "--revision", "v1")
    assert (refused.status, "revision: is given without a base (add --base)" in refused.err) == (2, True)


def test_given_memory_is_repeated_and_an_estimate_is_not(run: Run, data: Path, tiny_folder: Path) -> None:
    words = ("train", data, "--adapter", "birds", "--base", tiny_folder, "--detach", "--json")
    given, estimated = run(*words, "--memory-bytes", "5G").json, run(*words).json
    assert given["requirements"]["memory_bytes"] == 5 * 10**9
    assert estimated["requirements"]["memory_bytes"] > 0
    assert run("jobs", "show", given["id"], "--config", "--json").json["memory_bytes"] == 5 * 10**9
    assert " --memory-bytes 5000000000" in run("jobs", "show", given["id"]).out
    assert "memory_bytes" not in run("jobs", "show", estimated["id"], "--config", "--json").json
    assert "--memory-bytes" not in run("jobs", "show", estimated["id"]).out


def test_reproduction_and_training_from_a_version_are_repeated(database: Database) -> None:
    command = write_command(ReproduceSpec(adapter="medical/1"))
    assert command == "finch-hub adapters reproduce medical/1"
    assert parsing.parse(shlex.split(command)[1:]).params["adapter"] == "medical/1"
    lora = LoRAConfig(rank=8, dropout=0.2, init="start")
    spec = TrainSpec(adapter="m", base=TINY, train=DIGEST, start="medical/1", lora=lora, system="S")
    command = write_command(spec)
    assert command is not None
    given = parsing.parse(shlex.split(command)[1:]).params
    assert {name: given[name] for name in ("data", "adapter", "start", "dropout", "system", "validation")} == {
        "data": DIGEST, "adapter": "m", "start": "medical/1", "dropout": 0.2, "system": "S", "validation": None,
    }  # fmt: skip
    assert (given["base"], given["rank"], given["settings"]) == (None, None, ())


@pytest.mark.parametrize(
    "spec",
    [
        TrainSpec(adapter="m", base=TINY, train=DIGEST, lora=LoRAConfig(target_modules="q_proj")),
        TrainSpec(adapter="m", base=TINY, train=DIGEST, lora=LoRAConfig(target_modules=("a,b",))),
        TrainSpec(adapter="m", base=TINY, train=DIGEST, lora=LoRAConfig(target_modules=("mlp",))),
        TrainSpec(adapter="m", base=TINY, train=DIGEST, lora=LoRAConfig(target_modules=("q_proj?",))),
        ComposeSpec(adapter="m", parents=(Parent(adapter="a/1"),), parameters={"a=b": 1}),
        ComposeSpec(adapter="m", parents=(Parent(adapter="a/1"),), resolver_parameters={"": 1}),
        JobSpec(kind="another"),
    ],
)
def test_value_that_no_option_takes_has_no_command(spec: JobSpec) -> None:
    assert write_command(spec) is None


def test_missing_preset_has_all_of_its_values(database: Database) -> None:
    spec = TrainSpec(adapter="m", base=TINY, train=DIGEST, preset="gone", training=TrainingConfig(epochs=9), system="S")
    command = write_command(spec)
    assert command is not None
    assert "--preset" not in command
    assert "--epochs 9" in command
    assert "--system S" in command


@pytest.mark.parametrize("value", ["8", "true", "null", '"x"', "plain", "a b", "", 8, 0.5, None, [1, "a"], {"k": "v"}])
def test_parameter_keeps_its_type(database: Database, value: object) -> None:
    from finch_hub.cli.options import parse_settings

    spec = ComposeSpec(adapter="m", parents=(Parent(adapter="a/1"),), parameters={"name": value})
    command = write_command(spec)
    assert command is not None
    words = shlex.split(command)
    assert parse_settings([words[words.index("--parameter") + 1]], "--parameter") == {"name": value}
