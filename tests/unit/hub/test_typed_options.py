"""Keyword arguments of `Hub`: their types are those of the fields that they set, and mypy checks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from finch_hub.specs.jobs import ComposeOptions, ComposeSpec, QuantizeOptions, QuantizeSpec
from finch_hub.specs.lora import LoRAConfig, LoRAOptions
from finch_hub.specs.reading import ReadingConfig, ReadingOptions
from finch_hub.specs.training import TrainingConfig, TrainingOptions
from finch_hub.specs.value import Value

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
        "hub.quantize('birds', scheme='int3')\n",
        encoding="utf-8",
    )
    config = tmp_path / "mypy.ini"
    skipped = "torch.*,transformers.*,peft.*,sqlalchemy.*,celery.*,numpy.*"
    config.write_text(f"[mypy]\nfollow_imports = silent\nstrict = true\n[mypy-{skipped}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    checked = subprocess.run([*command, str(snippet)], cwd=ROOT, capture_output=True, text=True, check=False)
    refused = [int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error: " in line]
    assert refused == [4, 5, 7, 9], checked.stdout
