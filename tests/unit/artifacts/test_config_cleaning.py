import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.safetensors_files import CONFIG

from finch_hub import errors
from finch_hub.artifacts.config_cleaning import canonical_json, clean_config
from finch_hub.formats.peft_config import match_patterns

REFUSED: dict[str, Any] = {
    "peft_type": ["LOHA", None, "lora", 7],
    "task_type": ["RUN_CODE", 1],
    "r": [0, -1, 2.5, True, "8", 10**6, [8]],
    "lora_alpha": [0, -1, "16", True, 1e300],
    "lora_dropout": [1, -0.1, "0", True],
    "target_modules": [[], None, "", ["../q"], [1], {"q": 1}, "(a+)+$", "(", "a" * 2000, r"(q)\1", "(?P<x>q)", "(?i)q"],
    "exclude_modules": [["a b"], "(", {}],
    "modules_to_save": ["lm_head", ["lm head"], [None]],
    "bias": ["some", True],
    "use_dora": ["yes", 1],
    "use_rslora": [1, "true"],
    "layers_to_transform": [[-1], ["0"], 10**9, [True]],
    "layers_pattern": ["a b", [1]],
    "rank_pattern": [[], {"q": 0}, {"q": "8"}, {"(": 8}, {"(.*)*": 8}, {".*.*.*": 8}, {"q" * 300: 8}],
    "alpha_pattern": [{"q": 0}, {"q": "x"}, {"(a|b)+": 8}],
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", {"a": 1}, 7],
    "base_model_name_or_path": [7, ["x"]],
    "auto_map": [{"AutoConfig": "evil--evil.Evil"}],
    "auto_mapping": [{"base_model_class": "X", "parent_library": "evil"}],
    "megatron_config": [{"a": 1}],
    "megatron_core": ["evil.core"],
    "corda_config": [{"cache_file": "/etc/passwd"}],
    "lora_ga_config": [{"cache_file": "/etc/passwd"}],
    "loftq_config": [{"loftq_bits": 4}],
    "layer_replication": [[[0, 4], [2, 5]]],
    "trainable_token_indices": [[1, 2]],
    "alora_invocation_tokens": [[1]],
    "target_parameters": [["experts"]],
    "use_qalora": [True],
    "custom_code": ["import os"],
    "trust_remote_code": [True],
}
PEFT_DEFAULTS: dict[str, Any] = {
    "auto_mapping": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "loftq_config": {},
    "eva_config": None,
    "qalora_group_size": 16,
    "use_qalora": False,
    "peft_version": "0.21.2",
    "revision": None,
    "some_field_of_a_later_version": None,
    "some_table_of_a_later_version": {},
    "some_switch_of_a_later_version": False,
}


def cleaned(**fields: Any) -> dict[str, Any]:
    return clean_config(json.dumps({**CONFIG, **fields}).encode())


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in REFUSED.items() for value in values])
def test_invalid_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(errors.RefusedArtifact) as refused:
        cleaned(**{field: value})
    assert [problem.where for problem in refused.value.problems] == [field]


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(errors.RefusedArtifact) as refused:
        cleaned(
            r=0, bias="x", auto_map={"a": "b"}, megatron_core="evil", exclude_modules=[{}], layers_to_transform=["x", 1]
        )
    assert len(refused.value.problems) == 6


@pytest.mark.parametrize("missing", ["peft_type", "target_modules"])
def test_missing_field_is_refused(missing: str) -> None:
    text = json.dumps({key: value for key, value in CONFIG.items() if key != missing}).encode()
    with pytest.raises(errors.RefusedArtifact, match="is missing"):
        clean_config(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"r": NaN}',
        b'{"r": 1, "r": 2}',
        b'{"a": "\\ud800"}',
        b"[" * 10**5,
        b" " * 2**21,
    ],
)
def test_text_that_is_not_a_config_is_refused(text: bytes) -> None:
    with pytest.raises(errors.RefusedArtifact):
        clean_config(text)


def test_defaults_of_genuine_configs_are_dropped() -> None:
    assert cleaned(**PEFT_DEFAULTS) == cleaned()
    assert not PEFT_DEFAULTS.keys() & cleaned(**PEFT_DEFAULTS).keys()


def test_name_of_the_base_is_not_stored() -> None:
    config = cleaned(base_model_name_or_path="/home/me/model", revision="main")
    assert b"/home/me" not in canonical_json(config)
    assert config["base_model_name_or_path"] is None
    assert "revision" not in config


def test_configs_of_one_meaning_have_one_form() -> None:
    first = clean_config(
        json.dumps({**CONFIG, "lora_alpha": 4, "target_modules": ["q", "v"], "lora_dropout": 0}).encode()
    )
    second = clean_config(
        json.dumps(
            {"target_modules": ["v", "q"], **CONFIG, "lora_alpha": 4.0, "lora_dropout": 0.0, "bias": "none"}
            | {"target_modules": ["v", "q"]}
        ).encode()
    )
    assert canonical_json(first) == canonical_json(second)
    assert clean_config(canonical_json(first)) == first


@given(config=st.dictionaries(st.sampled_from(sorted(REFUSED)), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_config_is_cleaned_or_refused(config: dict[str, Any]) -> None:
    text = json.dumps({**CONFIG, **config}).encode()
    try:
        first = clean_config(text)
    except errors.RefusedArtifact:
        return
    assert canonical_json(clean_config(canonical_json(first))) == canonical_json(first)


@pytest.mark.parametrize("pattern", [".*a.*", "(?:a|b)c*d*", "[a-z]*[a-z]*x"])
def test_worst_accepted_pattern_is_fast(pattern: str) -> None:
    config = cleaned(rank_pattern={pattern: 4})
    before = time.process_time()
    match_patterns(config["rank_pattern"], ["a" * number for number in range(500, 504)], 2)
    assert time.process_time() - before < 60  # an exponential one would never end


def test_order_of_patterns_is_kept_since_the_first_match_counts() -> None:
    config = cleaned(rank_pattern={"q": 8, "layers.1.q": 4})
    again = clean_config(canonical_json(config))
    assert match_patterns(again["rank_pattern"], ["layers.1.q"], 2) == {"layers.1.q": 8}
