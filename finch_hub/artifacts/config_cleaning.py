"""Cleaning of an untrusted `adapter_config.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from finch_hub import errors
from finch_hub.formats.peft_config import HARMLESS_INITS, VARIANTS
from finch_hub.formats.peft_names import CONFIG

MAX_BYTES = 2**20
_MAX_RANK = 1024
_MAX_PATTERN = 256
_MAX_REPEATS = {"pattern": 2, "target": 6}


def canonical_json(values: Mapping[str, Any]) -> bytes:
    """Return the bytes of a config in the form that is hashed.

    Patterns keep their order, since the first match counts.
    """
    return (json.dumps(dict(sorted(values.items())), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def clean_config(text: bytes) -> dict[str, Any]:
    """Return the fields of a config that describe a LoRA adapter.

    None of them names code, files or machines. Other fields must be empty or have PEFT's default value. They are
    dropped, since a reader restores them.

    Raises:
        RefusedArtifact: with every field that names code or files, has an invalid value or is of another adapter type.
    """
    raw = _parse_json(text)
    problems: list[errors.Problem] = []
    values: dict[str, Any] = {"base_model_name_or_path": None, "inference_mode": True, "init_lora_weights": True}
    for field, (default, check) in _KEPT.items():
        value = raw.pop(field, default)
        if value is None and default is not _REQUIRED:
            value = default
        rule = check(value) if value != default or default is _REQUIRED else None
        if rule is not None:
            what = "is missing" if value is _REQUIRED else f"is {_shorten(value)}"
            problems.append(errors.Problem(where=field, what=f"{what}; {rule}"))
        else:
            values[field] = default if value == default else _canonical(value)
    init = raw.pop("init_lora_weights", True)
    if not isinstance(init, bool) and init not in HARMLESS_INITS:
        fix = "convert it with PEFT (path_initial_model_for_weight_conversion) and import the result"
        what = f"is {_shorten(init)}, which changes the base's weights"
        problems.append(errors.Problem(where="init_lora_weights", what=what, fix=fix))
    for field in ("base_model_name_or_path", "revision"):
        if not isinstance(name := raw.pop(field, None), str | None):
            problems.append(errors.Problem(where=field, what=f"is {_shorten(name)}; it must be a text"))
    for field in _IGNORED:
        raw.pop(field, None)
    for field, value in sorted(raw.items()):
        if value is None or value is False or value in ({}, []) or (field, value) == _MEGATRON_DEFAULT:
            continue
        why = _REFUSED.get(field)
        what = "is unknown" if why is None else f"is {_shorten(value)}; only PEFT's default is allowed"
        problems.append(errors.Problem(where=field[:60], what=what, fix=why or _ANY_REASON))
    if problems:
        raise errors.RefusedArtifact(problems, subject=CONFIG)
    return values


def _parse_json(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a field is repeated")
        return dict(pairs)

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    try:
        if len(text) > MAX_BYTES:
            raise ValueError(f"it has {len(text)} bytes, more than {MAX_BYTES}")
        parsed = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse)
        if not isinstance(parsed, dict):
            raise ValueError("it is not a JSON object")
        json.dumps(parsed, ensure_ascii=False).encode()  # json.loads accepts half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise errors.RefusedArtifact(f"cannot be read: {str(error)[:200]}", subject=CONFIG) from None
    return parsed


def _canonical(value: Any) -> Any:
    """Return the canonical form of a value: sorted lists, and integers for whole floats."""
    if isinstance(value, list):
        return sorted(value)
    if isinstance(value, dict):  # keep the order, since the first pattern that matches counts
        return {key: _canonical(entry) for key, entry in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# Each check returns the rule that a value breaks, or None.
_Check = Callable[[Any], str | None]


def _rule(text: str, fits: Callable[[Any], bool]) -> _Check:
    return lambda value: None if fits(value) else text


def _one_of(*allowed: Any) -> _Check:
    rule = f"it must be {' or '.join(repr(option) for option in allowed)}"
    return _rule(rule, lambda value: any(type(value) is type(option) and value == option for option in allowed))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and _MODULE.fullmatch(name) for name in value)


def _is_layers(value: Any) -> bool:
    indices = value if isinstance(value, list) else [value]
    return all(type(index) is int and 0 <= index < 10_000 for index in indices)


def _check_modules(value: Any) -> str | None:
    return _check_regex(value, "target") if isinstance(value, str) else _check_names(value)


def _check_targets(value: Any) -> str | None:
    return _check_modules(value) if value else "it must name modules"


def _check_patterns(check: _Check) -> _Check:
    def check_pattern(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "it must be a table"
        rules = (_check_regex(key, "pattern") or check(entry) for key, entry in value.items())
        return next((rule for rule in rules if rule is not None), None)

    return check_pattern


def _check_regex(text: str, kind: str) -> str | None:
    """Accept regular expressions that cannot take exponential time: few repeats, and none of a group."""
    repeats = len(re.findall(r"(?<!\\)[*+{]", text))
    if len(text) > _MAX_PATTERN * (4 if kind == "target" else 1) or repeats > _MAX_REPEATS[kind]:
        return f"{_shorten(text)} is too long or has more than {_MAX_REPEATS[kind]} repeats"
    if re.search(r"\)\s*[*+?{]|\\[1-9]|\(\?(?![:!=])", text):
        return f"{_shorten(text)} repeats a group or refers to one"
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return f"{_shorten(text)} is not a regular expression"
    return None


_MODULE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_REQUIRED = object()
_check_boolean = _one_of(False, True)
_check_rank = _rule(
    f"it must be an integer from 1 to {_MAX_RANK}", lambda value: type(value) is int and 1 <= value <= _MAX_RANK
)
_check_positive = _rule("it must be a number above 0", lambda value: type(value) in (int, float) and 0 < value < 1e6)
_check_fraction = _rule(
    "it must be at least 0 and below 1", lambda value: type(value) in (int, float) and 0 <= value < 1
)
_check_names = _rule("it must be a list of module names", _is_names)
_check_layers = _rule("it must be layer indices", _is_layers)
_check_prefixes = _rule("it must be a list of module names", lambda value: _is_names(value) or _is_names([value]))
_TASKS = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

# Every stored field: PEFT's default and the check of other values.
_KEPT: dict[str, tuple[Any, _Check]] = {
    "peft_type": (_REQUIRED, _one_of("LORA")),
    "task_type": (None, _one_of(*_TASKS)),
    "r": (8, _check_rank),
    "lora_alpha": (8, _check_positive),
    "lora_dropout": (0.0, _check_fraction),
    "target_modules": (_REQUIRED, _check_targets),
    "exclude_modules": (None, _check_modules),
    "modules_to_save": (None, _check_names),
    "bias": ("none", _one_of("none", "all", "lora_only")),
    "lora_bias": (False, _check_boolean),
    "fan_in_fan_out": (False, _check_boolean),
    "use_rslora": (False, _check_boolean),
    "use_dora": (False, _check_boolean),
    "layers_to_transform": (None, _check_layers),
    "layers_pattern": (None, _check_prefixes),
    "rank_pattern": ({}, _check_patterns(_check_rank)),
    "alpha_pattern": ({}, _check_patterns(_check_positive)),
}

# These fields tell how training began and which PEFT wrote the file. No reader of the weights needs them.
_IGNORED = ("inference_mode", "peft_version", "eva_config", "runtime_config", "qalora_group_size")

# Fields of PEFT that name code or files or change the arithmetic, with the reason for refusing other values.
_ANY_REASON = "it would change what the adapter means or what loading it does"
_MEGATRON_DEFAULT = ("megatron_core", "megatron.core")
_REFUSED = {
    **dict.fromkeys((*VARIANTS, "ensure_weight_tying"), _ANY_REASON),
    "auto_map": "it names code to run",
    "auto_mapping": "it names code to run; set task_type to CAUSAL_LM and auto_mapping to null",
    "megatron_config": "it names code to run",
    "megatron_core": "it names code to run",
    "corda_config": "it names files to read",
    "lora_ga_config": "it names files to read",
    "loftq_config": "such an adapter needs its own changed base",
}
