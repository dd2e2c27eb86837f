import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.safetensors_files import CONFIG

from finch_hub import errors
from finch_hub.artifacts.config_cleaning import canonical_json, clean_config, count_ways
from finch_hub.formats.peft_config import match_patterns

REFUSED: dict[str, Any] = {
    "peft_type": ["LOHA", None, "lora", 7],
    "task_type": ["RUN_CODE", 1],
    "r": [0, -1, 2.5, True, "8", 10**6, [8]],
    "lora_alpha": [0, -1, "16", True, 1e300],
    "lora_dropout": [1, -0.1, "0", True],
    "target_modules": [[], "", ["../q"], [1], {"q": 1}, "("],
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
    "lora_bias": [True],
    "enable_lora": [[True, False, True]],
    "use_bdlora": [{"nblocks": 2}],
    "layer_gates": [{"a": [1]}],
    "beta": [0, 1.5],
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
    "some_text_of_a_later_version": "",
    "some_options_of_a_later_version": {"path": None, "steps": []},
    "enable_lora": None,
    "use_original_init": False,
}
# What other trainers and older versions add, and what only describes the training.
IGNORED: dict[str, Any] = {
    "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "evil", "unsloth_fixed": True},
    "eva_config": {"rho": 2.0, "tau": 0.99},
    "_from_model_config": True,
    "merge_weights": True,
    "transformers_version": "5.0",
    "unsloth_version": "2026.9.4",
    "lora_dtype": "float32",
    "lorap_emb_lr": 1e-06,
    "torch_dtype": "bfloat16",
    "max_seq_length": 2048,
    "random_state": 3407,
}


def cleaned(**fields: Any) -> dict[str, Any]:
    return clean_config(json.dumps({**CONFIG, **fields}).encode()).fields


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


def test_missing_type_is_refused() -> None:
    text = json.dumps({key: value for key, value in CONFIG.items() if key != "peft_type"}).encode()
    with pytest.raises(errors.RefusedArtifact, match="peft_type: is missing"):
        clean_config(text)


@pytest.mark.parametrize("field", IGNORED)
def test_field_that_changes_no_result_is_listed_and_not_kept(field: str) -> None:
    found = clean_config(json.dumps({**CONFIG, field: IGNORED[field]}).encode())
    assert (found.fields, found.ignored) == (cleaned(), {field: IGNORED[field]})


def test_defaults_of_genuine_configs_are_not_listed() -> None:
    assert clean_config(json.dumps({**CONFIG, **PEFT_DEFAULTS, "eva_config": None}).encode()).ignored == {}


UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|mlp).*?(?:q_proj|v_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|mlp)\.(?:(?:q_proj|v_proj)))"
)
VISION = r"(?:.*?(?:vision|image|visual|patch).*?(?:self_attn|mlp).*?(?:q_proj).*?)|" + UNSLOTH
COSTLY = [
    r".*\.layers\.\d+\.q", ".*.*", "(a+)+$", "a" * 2000, r"(q)\1", "(?P<x>q)", "(?i)q", UNSLOTH, VISION,
    "a?a?a?a?aaaa", ".*a" * 4, "a{1,9}" * 4,
]  # fmt: skip


@pytest.mark.parametrize("targets", [None, *COSTLY])
def test_modules_are_told_by_the_file_where_the_config_cannot(targets: str | None) -> None:
    text = json.dumps({**CONFIG, "target_modules": targets, "exclude_modules": ["k"]}).encode()
    found = clean_config(text)
    assert found.is_pinned
    assert found.fields["target_modules"] is None
    assert found.fields["exclude_modules"] == ["k"], "what the file has must agree with it"
    without = json.dumps({key: value for key, value in CONFIG.items() if key != "target_modules"}).encode()
    assert clean_config(without).is_pinned


def test_costly_exclusion_is_replaced_by_the_modules_of_the_file() -> None:
    assert clean_config(json.dumps({**CONFIG, "exclude_modules": "(k+)+"}).encode()).is_pinned


@pytest.mark.parametrize("targets", [r".*\.layers\.0\.(q|k)_proj", r"(?:.*?)\.q[*+?{]_\?", "[]*?{+]q[^]?]*k"])
def test_pattern_of_one_repeat_is_kept(targets: str) -> None:
    found = clean_config(json.dumps({**CONFIG, "target_modules": targets}).encode())
    assert (found.fields["target_modules"], found.is_pinned) == (targets, False)


def test_long_targets_are_replaced_by_the_modules_of_the_file() -> None:
    for length, is_pinned in ((1024, False), (1025, True)):
        text = json.dumps({**CONFIG, "target_modules": "q" * length}).encode()
        assert clean_config(text).is_pinned == is_pinned


@pytest.mark.parametrize("pattern", ["a?" * 40 + "b", ".*a.*a.*a", "(a|b)*c", "(.|a)" * 50, "(?:a|aa|(?:b|ab))" * 9])
def test_costly_patterns_of_ranks_are_refused(pattern: str) -> None:
    with pytest.raises(errors.RefusedArtifact, match="repeats"):
        clean_config(json.dumps({**CONFIG, "rank_pattern": {pattern: 4}}).encode())


@pytest.mark.parametrize(
    ("pattern", "ways"),
    [
        (r".*\.(?:self_attn|mlp)\.(q|k|v|o|up|down|gate)_proj", 1),
        ("(q|qkv|k)_proj|(a|[b]|c)x", 6),
        (r"(a\.b|a\.c)(a|a)(\d|x)", 4),
        (r"a\|b[|(]\(|c", 2),
        ("((a|.)(b|.)|x)(?:c|.|d)", 15),
        ("(a|.)(b|.", 4),
        (")|(", 2),
    ],
)
def test_alternatives_that_can_both_match_count(pattern: str, ways: int) -> None:
    assert count_ways(pattern) == ways


@pytest.mark.parametrize("targets", ["(.|a)" * 50, "(?:.|[a-z])" * 90 + "q"])
def test_costly_alternatives_are_replaced_by_the_modules_of_the_file(targets: str) -> None:
    assert clean_config(json.dumps({**CONFIG, "target_modules": targets}).encode()).is_pinned


@given(st.text("ab.*+?{}[]()|\\1,", max_size=12), st.integers(8, 100))
def test_accepted_patterns_take_no_exponential_time(pattern: str, length: int) -> None:
    """An exponential time on names that almost match would end this test by its time limit."""
    try:
        clean_config(json.dumps({**CONFIG, "rank_pattern": {pattern: 4}}).encode())
    except errors.RefusedArtifact:
        return
    for text in ("a" * length + "!", "ab" * (length // 2) + "!", "a." * (length // 2)):
        match_patterns({pattern: 4}, [text], 8)


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


def test_config_has_a_mebibyte_at_most() -> None:
    text = json.dumps(CONFIG).encode().ljust(2**20)
    assert clean_config(text).fields["r"] == CONFIG["r"]
    with pytest.raises(errors.RefusedArtifact, match="has 1048577 bytes, more than 1048576"):
        clean_config(text + b" ")


def test_defaults_of_genuine_configs_are_dropped() -> None:
    assert cleaned(**PEFT_DEFAULTS) == cleaned()
    assert not PEFT_DEFAULTS.keys() & cleaned(**PEFT_DEFAULTS).keys()


def test_name_of_the_base_is_not_stored() -> None:
    config = cleaned(base_model_name_or_path="/home/me/model", revision="main")
    assert b"/home/me" not in canonical_json(config)
    assert config["base_model_name_or_path"] is None
    assert "revision" not in config


def test_configs_of_one_meaning_have_one_form() -> None:
    first, _, _ = clean_config(
        json.dumps({**CONFIG, "lora_alpha": 4, "target_modules": ["q", "v"], "lora_dropout": 0}).encode()
    )
    second, _, _ = clean_config(
        json.dumps(
            {"target_modules": ["v", "q"], **CONFIG, "lora_alpha": 4.0, "lora_dropout": 0.0, "bias": "none"}
            | {"target_modules": ["v", "q"]}
        ).encode()
    )
    assert canonical_json(first) == canonical_json(second)
    assert clean_config(canonical_json(first)).fields == first


@given(config=st.dictionaries(st.sampled_from(sorted(REFUSED)), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_config_is_cleaned_or_refused(config: dict[str, Any]) -> None:
    text = json.dumps({**CONFIG, **config}).encode()
    try:
        first = clean_config(text).fields
    except errors.RefusedArtifact:
        return
    assert canonical_json(clean_config(canonical_json(first)).fields) == canonical_json(first)


@pytest.mark.parametrize("pattern", [".*a.*", "(?:a|b)c*d*", "[a-z]*[a-z]*x"])
def test_worst_accepted_pattern_is_fast(pattern: str) -> None:
    config = cleaned(rank_pattern={pattern: 4})
    before = time.process_time()
    match_patterns(config["rank_pattern"], ["a" * number for number in range(500, 504)], 2)
    assert time.process_time() - before < 60  # an exponential one would never end


def test_order_of_patterns_is_kept_since_the_first_match_counts() -> None:
    config = cleaned(rank_pattern={"q": 8, "layers.1.q": 4})
    again = clean_config(canonical_json(config)).fields
    assert match_patterns(again["rank_pattern"], ["layers.1.q"], 2) == {"layers.1.q": 8}
