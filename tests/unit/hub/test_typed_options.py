"""Types of `Hub`: those of keyword arguments are those of the fields that they set, those of handles of their kinds."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from finch_hub import AdapterVersion, Hub, JobHandle
from finch_hub.hub.training_request import SweepRequest, TrainingSource, TrainRequest, split_request
from finch_hub.specs import reports
from finch_hub.specs.jobs import ComposeOptions, ComposeSpec, QuantizeOptions, QuantizeSpec, TrainOptions
from finch_hub.specs.lora import LoRAConfig, LoRAOptions
from finch_hub.specs.reading import ReadingConfig, ReadingOptions
from finch_hub.specs.sweeps import SweepOptions
from finch_hub.specs.training import TrainingConfig, TrainingOptions
from finch_hub.specs.value import Value
from finch_hub.workers.runs import kinds

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("options", "value", "parameters"),
    [
        (LoRAOptions, LoRAConfig, set()),
        (TrainingOptions, TrainingConfig, {"validation", "max_bad_rows", "strict"}),
        (ReadingOptions, ReadingConfig, set()),
        (ComposeOptions, ComposeSpec, {"kind", "adapter", "parents"}),
        (QuantizeOptions, QuantizeSpec, {"kind", "adapter"}),
    ],
)
def test_options_have_the_fields_and_types_of_the_value(options: Any, value: type[Value], parameters: set[str]) -> None:
    hints = get_type_hints(value)
    assert get_type_hints(options) == {name: hints[name] for name in value.model_fields.keys() - parameters}


def test_a_request_is_divided_into_source_and_settings() -> None:
    source = {"base": "tiny", "validation": 0.2, "requirements": None}
    settings = {"rank": [4, 8], "columns": None, "nothing": 1}
    assert split_request({**settings, **source}) == (source, settings)
    for request, options in ((TrainRequest, TrainOptions), (SweepRequest, SweepOptions)):
        names = get_type_hints(request).keys()
        assert names == get_type_hints(TrainingSource).keys() | get_type_hints(options).keys()
        documented = inspect.getdoc(Hub.train) or ""
        assert [name for name in get_type_hints(TrainingSource) if f"\n    {name}: " not in documented] == []


@pytest.mark.parametrize("method", [Hub.train, Hub.sweep, Hub.preview_training])
def test_completion_knows_what_a_training_starts_from(method: Any) -> None:
    signature = inspect.signature(method)
    source = [signature.parameters[name] for name in get_type_hints(TrainingSource)]
    assert {(parameter.kind, parameter.default) for parameter in source} == {(inspect.Parameter.KEYWORD_ONLY, None)}
    assert signature.parameters["base"].annotation == "str | Path | None"
    assert signature.parameters["adapter"].default is inspect.Parameter.empty
    assert list(signature.parameters)[-1] == "request"


def test_a_preview_takes_all_arguments_of_a_training() -> None:
    trained, previewed = (inspect.signature(method).parameters for method in (Hub.train, Hub.preview_training))
    assert trained.keys() == previewed.keys() - {"limit"}


@pytest.mark.parametrize("kind", kinds.MODULES)
def test_handle_of_each_kind_has_the_types_of_its_result_and_report(kind: str) -> None:
    job_kind = kinds.kind_of(kind)
    handle = inspect.signature(getattr(Hub, kind)).return_annotation
    names = {**vars(reports), "JobHandle": JobHandle, "AdapterVersion": AdapterVersion}
    result, report = get_args(eval(handle, names))
    assert report is job_kind.report
    assert result is (AdapterVersion if job_kind.repeat is not None else report)


@pytest.mark.slow
def test_mypy_refuses_an_unknown_option_and_a_wrong_type(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "from finch_hub import Hub\n"
        "hub = Hub()\n"
        "hub.train('birds.jsonl', adapter='birds', base='tiny', rank=8, epochs=2, validation=0.2)\n"
        "hub.train('birds.jsonl', adapter='birds', base='tiny', rnak=8)\n"
        "hub.train('birds.jsonl', adapter='birds', base='tiny', epochs='2')\n"
        "hub.compose(['birds'], adapter='meadow', rank='auto', scale=0.5)\n"
        "hub.compose(['birds'], adapter='meadow', strenght=1)\n"
        "hub.quantize('birds', scheme='int8')\n"
        "hub.quantize('birds', scheme='int3')\n"
        "trained = hub.train('birds.jsonl', adapter='birds', base='tiny')\n"
        "print(trained.result().reference, trained.report().train_loss)\n"
        "print(trained.report().strategy)\n"
        "print(hub.merge(['birds'], 'model').result().reference)\n"
        "for handle in (trained, hub.jobs.get('1')):\n"
        "    print(handle.report().evolve())\n",
        encoding="utf-8",
    )
    config = tmp_path / "mypy.ini"
    skipped = "torch.*,transformers.*,peft.*,sqlalchemy.*,celery.*,numpy.*"
    config.write_text(f"[mypy]\nfollow_imports = silent\nstrict = true\n[mypy-{skipped}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    checked = subprocess.run([*command, str(snippet)], cwd=ROOT, capture_output=True, text=True, check=False)
    refused = [int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error: " in line]
    assert refused == [4, 5, 7, 9, 12, 13], checked.stdout
