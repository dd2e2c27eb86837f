"""Fields of configs. More of them, with the gate's checks, are in tests/unit/artifacts/test_config_cleaning.py."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import peft
import pytest

from finch_hub.formats.config_fields import SUPPORTED, find_ignored, find_unsupported, is_empty


def unsupported(**fields: Any) -> list[str]:
    return [problem.where for problem in find_unsupported({"peft_type": "LORA", **fields})]


def test_fields_that_peft_writes_by_default_are_neither_refused_nor_listed() -> None:
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", peft_version=peft.__version__)
    fields = json.loads(json.dumps(config.to_dict(), default=sorted))
    assert list(find_unsupported(fields)) == []
    assert find_ignored(fields) == {}


def test_every_field_of_peft_with_a_value_is_known_or_refused() -> None:
    """A field of a later PEFT whose value matters must not pass, so nothing is let through that is not named."""
    for field in dataclasses.fields(peft.LoraConfig):
        refused = unsupported(**{field.name: {"some": "value"}}) if field.name != "peft_type" else ["peft_type"]
        is_told = field.name in find_ignored({field.name: {"some": "value"}})
        is_usual = field.name in ("inference_mode", "peft_version", "qalora_group_size", "runtime_config")
        assert refused == [field.name] or field.name in SUPPORTED or is_told or is_usual, field.name


@pytest.mark.parametrize("value", [None, False, "", [], {}, {"a": None}, {"a": {"b": []}}])
def test_field_without_a_value_changes_nothing(value: Any) -> None:
    assert is_empty(value)
    assert unsupported(field_of_a_later_version=value) == []


@pytest.mark.parametrize("value", [True, 0, 1, "x", [None], {"a": 0}])
def test_field_with_a_value_must_be_known(value: Any) -> None:
    assert unsupported(field_of_a_later_version=value) == ["field_of_a_later_version"]


@pytest.mark.parametrize("value", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", 1, {"a": 1}])
def test_initialization_that_moves_the_base_is_refused(value: Any) -> None:
    assert unsupported(init_lora_weights=value) == ["init_lora_weights"]


@pytest.mark.parametrize("value", [None, True, False, "gaussian", "eva", "orthogonal"])
def test_initialization_that_leaves_the_base_alone_is_not_refused(value: Any) -> None:
    assert unsupported(init_lora_weights=value) == []
