import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.safetensors_files import CONFIG

from finch_hub import errors
from finch_hub.formats import peft_config
from finch_hub.formats.peft_config import clean_config

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
PEFT_DEFAULTS = {
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
    return dict(clean_config(json.dumps({**CONFIG, **fields}).encode()).values)


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in REFUSED.items() for value in values])
def test_what_is_refused(field: str, value: Any) -> None:
    with pytest.raises(errors.RefusedArtifact) as refused:
        cleaned(**{field: value})
    assert [problem.where for problem in refused.value.problems] == [field]


def test_all_problems_at_once() -> None:
    with pytest.raises(errors.RefusedArtifact) as refused:
        cleaned(
            r=0, bias="x", auto_map={"a": "b"}, megatron_core="evil", exclude_modules=[{}], layers_to_transform=["x", 1]
        )
    assert len(refused.value.problems) == 6


@pytest.mark.parametrize("missing", ["peft_type", "target_modules"])
def test_what_must_be_there(missing: str) -> None:
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
def test_what_is_no_config(text: bytes) -> None:
    with pytest.raises(errors.RefusedArtifact):
        clean_config(text)


def test_what_genuine_configs_carry_is_dropped() -> None:
    assert cleaned(**PEFT_DEFAULTS) == cleaned()
    assert not PEFT_DEFAULTS.keys() & cleaned(**PEFT_DEFAULTS).keys()


def test_the_base_is_a_claim_and_not_stored() -> None:
    found = clean_config(
        json.dumps({**CONFIG, "base_model_name_or_path": "/home/me/model", "revision": "main"}).encode()
    )
    assert (found.claimed_base, found.claimed_revision) == ("/home/me/model", "main")
    assert b"/home/me" not in found.to_bytes()
    assert found.values["base_model_name_or_path"] is None
    assert "revision" not in found.values


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
    assert first.to_bytes() == second.to_bytes()
    assert clean_config(first.to_bytes()).to_bytes() == first.to_bytes()


@given(config=st.dictionaries(st.sampled_from(sorted(REFUSED)), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_config_is_cleaned_or_refused(config: dict[str, Any]) -> None:
    text = json.dumps({**CONFIG, **config}).encode()
    try:
        found = clean_config(text)
    except errors.RefusedArtifact:
        return
    assert clean_config(found.to_bytes()).to_bytes() == found.to_bytes()


def test_patterns_match_as_pefts_do() -> None:
    from peft.utils.other import get_pattern_key

    pattern = {"layers.1.q": 4, "q": 8, r"layers\.[0-2]\.v": 16, "mlp.*": 32, "": 64}
    modules = ["model.layers.1.q", "model.layers.11.q", "model.layers.2.v", "model.layers.3.v", "l.mlp.up", "x", "qq"]
    config = cleaned(rank_pattern=pattern, alpha_pattern={"q": 10}, r=2)
    expected = {module: pattern.get(get_pattern_key(list(pattern), module), 2) for module in modules}
    assert peft_config.expected_ranks(config, modules) == expected
    assert peft_config.scales(config, {"l.q": 5, "l.v": 4}) == {"l.q": 2.0, "l.v": 1.0}
    assert peft_config.scales({**config, "use_rslora": True}, {"l.v": 4}) == {"l.v": 2.0}


def test_the_order_of_patterns_is_kept_since_the_first_match_counts() -> None:
    config = clean_config(json.dumps({**CONFIG, "rank_pattern": {"q": 8, "layers.1.q": 4}}).encode())
    again = clean_config(config.to_bytes())
    assert peft_config.expected_ranks(again.values, ["layers.1.q"]) == {"layers.1.q": 8}


def test_targets_by_name_suffix_and_expression() -> None:
    assert peft_config.targets({"target_modules": ["q", "mlp.up"]}, "model.layers.0.q")
    assert peft_config.targets({"target_modules": ["mlp.up"]}, "model.mlp.up")
    assert not peft_config.targets({"target_modules": ["q"]}, "model.layers.0.qq")
    assert peft_config.targets({"target_modules": r".*\.(q|v)"}, "model.layers.0.v")
    assert not peft_config.targets({"target_modules": r".*\.(q|v)"}, "model.layers.0.k")


@pytest.mark.parametrize("pattern", [".*a.*", "(?:a|b)c*d*", "[a-z]*[a-z]*x"])
def test_the_worst_pattern_let_in_takes_no_time(pattern: str) -> None:
    config = cleaned(rank_pattern={pattern: 4})
    before = time.process_time()
    peft_config.expected_ranks(config, ["a" * 500 for _ in range(4)])
    assert time.process_time() - before < 60  # an exponential one would take longer than the universe has
