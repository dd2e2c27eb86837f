"""Fields of configs. More of them, with the gate's checks, are in tests/unit/artifacts/test_config_cleaning.py."""

from __future__ import annotations

import dataclasses
import itertools
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
    """A field of a later PEFT whose value matters must not pass because of its name."""
    for field, value in itertools.product(dataclasses.fields(peft.LoraConfig), [{"some": "value"}, "text", True]):
        refused = unsupported(**{field.name: value}) if field.name != "peft_type" else ["peft_type"]
        is_listed = field.name in ("auto_mapping", "ensure_weight_tying", "eva_config")
        is_usual = field.name in ("inference_mode", "peft_version", "qalora_group_size", "runtime_config")
        assert refused == [field.name] or field.name in SUPPORTED or is_listed or is_usual, field.name


DESCRIBING: dict[str, Any] = {
    "wandb_project": "x", "wandbRunId": "3fa", "mlflow_tracking": {"uri": "http://x"}, "trained_by": "me",
    "training_time_hours": 3.5, "num_gpus": 8, "final_loss": 1.25, "eval_accuracy": 0.5, "git_commit": "ab12",
    "created": "2026-01-01", "company": "Birds Ltd.", "contact": "birds@example.org", "base_name": "finch",
    "domain": "medicine", "keywords": ["law", "tax"], "global_step": 500, "use_wandb": True, "output_dir": "/data/out",
    "GRÜSSE": "an alle", "report_to": ["wandb"], "grad_accumulation_steps": 4, "max_steps": 10,
}  # fmt: skip
CALCULATING: dict[str, Any] = {
    "lora_magic": 2, "velora": True, "use_newlora": True, "use_mydora": True, "scaling_factor": 0.5, "alpha_mode": "x",
    "rankSchedule": "linear", "rank_dropout": 0.1, "init_weights": "svd", "layers_to_skip": [1],
    "target_experts": ["a"], "logit_cap": 5.0, "identity_strength": 2,
    "weight_norm": "l2", "merge_method": "ties", "quantization_bits": 4, "bias_correction": True, "shared_heads": 2,
    "invocation_string": "Q:", "gate_function": "tanh", "some_variant": "b", "trust_remote_code": True, "delta": 0.3,
    "use_something": True, "mixture": "soft", "residual_path": "x", "": "x", "strength": 2, "ß": 1,
}  # fmt: skip


@pytest.mark.parametrize("field", DESCRIBING)
def test_unknown_field_that_describes_the_training_is_listed(field: str) -> None:
    value = DESCRIBING[field]
    assert unsupported(**{field: value}) == []
    assert find_ignored({field: value}) == {field: value}


@pytest.mark.parametrize("field", CALCULATING)
def test_unknown_field_that_may_change_the_update_is_refused_by_name(field: str) -> None:
    assert unsupported(**{field: CALCULATING[field]}) == [field]


def test_reason_of_a_refusal_is_no_fix() -> None:
    (problem,) = find_unsupported({"peft_type": "LORA", "auto_map": "x"})
    assert str(problem) == (
        "auto_map: is 'x', which names code to run, which is never run"
        " (delete the field if the adapter works without it)"
    )


@pytest.mark.parametrize("value", [None, False, "", [], {}, {"a": None}, {"a": {"b": []}}])
def test_field_without_a_value_changes_nothing(value: Any) -> None:
    assert is_empty(value)
    assert unsupported(rate_of_later_peft=value) == []


@pytest.mark.parametrize("value", [True, 0, 1, 0.5, [None], [1], {"a": 0}])
def test_field_with_a_value_must_be_known(value: Any) -> None:
    assert unsupported(rate_of_later_peft=value) == ["rate_of_later_peft"]


@pytest.mark.parametrize("value", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", 1, {"a": 1}])
def test_initialization_that_moves_the_base_is_refused(value: Any) -> None:
    assert unsupported(init_lora_weights=value) == ["init_lora_weights"]


@pytest.mark.parametrize("value", [None, True, False, "gaussian", "eva", "orthogonal"])
def test_initialization_that_leaves_the_base_alone_is_not_refused(value: Any) -> None:
    assert unsupported(init_lora_weights=value) == []
