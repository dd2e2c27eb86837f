"""An option of the command line, a keyword in Python, a key of a specification and a key in JSON are one word."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import click
import pytest

from finch_hub import Hub
from finch_hub.cli.main import cli
from finch_hub.engine import LoRAAdapter
from finch_hub.engine.inference.generator import GeneratorModel
from finch_hub.hub.adapters import Adapters
from finch_hub.hub.audit import Audit
from finch_hub.hub.bases import Bases
from finch_hub.hub.datasets import Datasets
from finch_hub.hub.jobs import JobHandle, Jobs
from finch_hub.hub.repositories import Repositories
from finch_hub.hub.training_request import SweepRequest, TrainRequest
from finch_hub.registry.values import NewJob
from finch_hub.specs import jobs
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reading import ReadingConfig
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import Value

METHODS: dict[str, tuple[Callable[..., Any], ...]] = {
    "train": (Hub.train, Hub.preview_training),
    "sweep": (Hub.sweep,),
    "compose": (Hub.compose, Hub.plan),
    "merge": (Hub.merge,),
    "eval": (Hub.evaluate,),
    "quantize": (Hub.quantize,),
    "export": (Hub.export,),
    "generate": (Hub.generator, GeneratorModel.generate),
    "chat": (Hub.generator, GeneratorModel.generate),
    "compare": (Hub.generator, GeneratorModel.generate),
    "adapters list": (Adapters.overview,),
    "adapters find": (Adapters.find,),
    "adapters versions": (Adapters.versions,),
    "adapters lineage": (Adapters.lineage,),
    "adapters alias": (Adapters.set_alias,),
    "adapters alias-history": (Adapters.alias_history,),
    "adapters compare": (Adapters.compare,),
    "adapters report": (Adapters.write_report,),
    "adapters import": (Adapters.import_,),
    "adapters pull": (Repositories.pull,),
    "adapters push": (Repositories.push,),
    "jobs list": (Jobs.find,),
    "jobs watch": (JobHandle.events,),
    "jobs save": (JobHandle.save,),
    "jobs report": (JobHandle.write_report,),
    "jobs prune": (Jobs.prune,),
    "bases add": (Bases.add,),
    "datasets add": (Datasets.add,),
    "datasets list": (Datasets.find,),
    "datasets preview": (Datasets.preview,),
    "audit": (Audit.find,),
    "gc": (Hub.collect,),
    "backup": (Hub.back_up,),
    "bundle": (Hub.bundle,),
    "unbundle": (Hub.unbundle,),
}
# Options about the output of any command, and NAME=VALUE pairs whose names are those of fields.
EVERYWHERE = {"json", "quiet", "detach", "set", "yes", "config"}
# Options that choose another method, or that are about the command itself.
OF_THE_COMMAND: dict[str, set[str]] = {
    "chat": {"with"},
    "compare": {"prompts", "output"},
    "train": {"from", "dry-run"},  # a word of Python itself, so that its keyword is `start`, which is an option, too
    "sweep": {"from", "vary"},
    "jobs sweep": {"wait"},
    "compose": {"plan"},
    "worker stop": {"wait"},
    "adapters alias": {"delete"},
    "adapters report": {"html", "samples", "replace"},
    "jobs report": {"html", "samples", "replace"},
    "adapters card": {"edit", "from", "reset"},
    "adapters list": {"deleted"},
    "adapters lineage": {"mermaid"},
    "adapters tag": {"remove"},
    "worker start": {"name", "slots", "queue", "label"},
    "plugins list": {"kind"},
    "db upgrade": {"ignore-workers"},
    "doctor": {"fast"},
}
# Fields of specifications that a submission fills in, with what it makes them of.
FILLED_IN = {
    "kind": "the method",
    "place": "the machine of the submitter",
    "thinking": "the data, or the adapters",
    "reading": "the options of reading",
    "lora": "the options of `LoRAConfig`",
    "training": "the options of `TrainingConfig`",
    "train": "data",
    "dataset": "data",
    "parents": "adapters and weights",
}
SPECS: dict[Callable[..., Any], type[jobs.JobSpec]] = {
    Hub.train: jobs.TrainSpec,
    Hub.compose: jobs.ComposeSpec,
    Hub.merge: jobs.MergeSpec,
    Hub.evaluate: jobs.EvaluateSpec,
    Hub.quantize: jobs.QuantizeSpec,
    Hub.export: jobs.ExportSpec,
    Hub.reproduce: jobs.ReproduceSpec,
}


def walk(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, f"{path}{name} ")
        else:
            yield path + name, command


def list_options(command: click.Command) -> Iterator[click.Option]:
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield parameter


def list_keywords(function: Callable[..., Any]) -> set[str]:
    """Return the names of the keywords of a function, with those of `Unpack`ed options and of `Requirements`."""
    names = set()
    for name, parameter in inspect.signature(function).parameters.items():
        hint = str(parameter.annotation)
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.add(name)
            names |= set(jobs.Requirements.model_fields) if "Requirements" in hint else set()
        else:
            names |= UNPACKED[hint.removeprefix("Unpack[").removesuffix("]")]
    return names


def fields_of(*kinds: type) -> set[str]:
    return {name for kind in kinds for name in get_type_hints(kind)}


UNPACKED = {
    "TrainRequest": fields_of(TrainRequest) | set(jobs.Requirements.model_fields),
    "SweepRequest": fields_of(SweepRequest) | set(jobs.Requirements.model_fields),
    "ComposeOptions": fields_of(jobs.ComposeOptions),
    "QuantizeOptions": fields_of(jobs.QuantizeOptions),
    "ReadingOptions": fields_of(jobs.TrainOptions) & set(ReadingConfig.model_fields),
    "Any": set(GenerationConfig.model_fields),
}
COMMANDS = dict(walk())


@pytest.mark.parametrize("path", COMMANDS)
def test_option_is_the_keyword_in_python(path: str) -> None:
    """An option that can be repeated takes an item of a list, whose keyword is the plural."""
    known = {name for method in METHODS.get(path, ()) for name in list_keywords(method)}
    for option in list_options(COMMANDS[path]):
        words = [name.removeprefix("--") for name in option.opts]
        if EVERYWHERE.intersection(words) or OF_THE_COMMAND.get(path, set()).intersection(words):
            continue
        for word in words:
            name = word.replace("-", "_")
            assert name in known or (option.multiple and f"{name}s" in known), f"{path} --{word}"


@pytest.mark.parametrize("method", SPECS, ids=lambda method: method.__name__)
def test_keyword_is_the_key_of_the_specification(method: Callable[..., Any]) -> None:
    known = list_keywords(method)
    assert [name for name in SPECS[method].model_fields if name not in known and name not in FILLED_IN] == []


def test_settings_of_a_training_are_keywords() -> None:
    known = list_keywords(Hub.train)
    configs: tuple[type[Value], ...] = (LoRAConfig, TrainingConfig, ReadingConfig)
    assert [name for config in configs for name in config.model_fields if name not in known] == []


def test_keys_of_the_json_of_a_job_are_keywords() -> None:
    """What a submission says besides its specification is in the JSON of the job under the same name."""
    about_the_job = list_keywords(Hub.train) & set(NewJob.model_fields)
    assert about_the_job == {"requirements", "priority", "depends_on", "idempotency_key"}
    assert about_the_job - set(jobs.Job.model_fields) == {"idempotency_key"}  # it is stored, and not shown


def test_engine_has_the_words_of_the_hub() -> None:
    own = {"self", "examples", "training", "reading", "report"}
    assert set(inspect.signature(LoRAAdapter.train).parameters) - own <= list_keywords(Hub.train)
