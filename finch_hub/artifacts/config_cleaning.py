"""Cleaning of an untrusted `adapter_config.json`."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from finch_hub import errors
from finch_hub.formats import config_fields, git_lfs, peft_config
from finch_hub.formats.config_fields import shorten
from finch_hub.formats.json_checks import parse_object
from finch_hub.formats.peft_names import CONFIG

MAX_BYTES = 2**20
_MAX_RANK = 1024
_MAX_PATTERN = 256
# A text of targets with one repeat takes linear time, and others become lists of modules. Patterns become such lists,
# too, but must be matched once.
_MAX_REPEATS = {"pattern": 2, "target": 1}
_MAX_WAYS = 64
MODULE_FIELDS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""Fields that pick modules."""


class CleanConfig(NamedTuple):
    """A cleaned config.

    Attributes:
        fields: describe a LoRA adapter, and none of them names code, files or machines.
        ignored: fields that had a value and do not change what the adapter computes.
        is_pinned: whether `target_modules` must become the paths of the file's modules: it is missing, does not name
            all of them, or is a regular expression that could take too long.
    """

    fields: dict[str, Any]
    ignored: dict[str, Any]
    is_pinned: bool


def canonical_json(values: Mapping[str, Any]) -> bytes:
    """Return the bytes of a config in the form that is hashed.

    Patterns keep their order, since the first match counts.
    """
    return (json.dumps(dict(sorted(values.items())), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def clean_config(text: bytes) -> CleanConfig:
    """Return the fields of a config that describe a LoRA adapter, and those that do not.

    Raises:
        RefusedArtifact: with every field that names code or files, has an invalid value, changes the arithmetic in a
            way that is not supported, or has a value and is unknown.
    """
    raw = parse_config(text)
    problems: list[errors.Problem] = []
    values: dict[str, Any] = {"base_model_name_or_path": None, "inference_mode": True, "init_lora_weights": True}
    unsupported = list(config_fields.find_unsupported(raw))
    texts = {field: raw[field] for field in MODULE_FIELDS[:2] if isinstance(raw.get(field), str)}
    costly = [field for field, text in texts.items() if _is_costly(text, "target")]
    # With tied weights, PEFT adapts modules that target_modules does not name.
    is_tied = raw.get("ensure_weight_tying") is True
    is_pinned = raw.get("target_modules") is None or bool(costly) or is_tied
    raw |= dict.fromkeys(MODULE_FIELDS if is_tied else costly)
    if peft_config.is_all_linear(raw.get("target_modules")):
        raw["target_modules"] = peft_config.ALL_LINEAR
    ignored = config_fields.find_ignored(raw)
    for field, (default, check) in _KEPT.items():
        value = raw.get(field, default)
        if value is None:
            value = default
        rule = check(value) if value != default else None
        if rule is not None:
            problems.append(errors.Problem(where=field, what=f"is {shorten(value)}; {rule}"))
        else:
            values[field] = default if value == default else _canonical(value)
    for field in ("base_model_name_or_path", "revision"):
        if not isinstance(name := raw.get(field), str | None):
            problems.append(errors.Problem(where=field, what=f"is {shorten(name)}; it must be a text"))
    problems += unsupported
    if problems:
        raise errors.RefusedArtifact(problems, subject=CONFIG)
    if values["layers_pattern"] and values["layers_to_transform"] in (None, []):
        # It says nothing without layers, and PEFT does not read such a config.
        ignored["layers_pattern"], values["layers_pattern"] = values["layers_pattern"], None
    return CleanConfig(values, ignored, is_pinned)


def parse_config(text: bytes) -> dict[str, Any]:
    """Return the fields of a config as they are. It may be UTF-8, UTF-16 or UTF-32, also with a byte-order mark.

    Raises:
        RefusedArtifact: the text is too long, or not a JSON object with fields that are there once.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a field is repeated")
        return dict(pairs)

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    git_lfs.check_content(text, name=CONFIG)
    try:
        if len(text) > MAX_BYTES:
            raise ValueError(f"it has {len(text)} bytes, more than {MAX_BYTES}")
        return parse_object(_decode(text), object_pairs_hook=unique, parse_constant=refuse)
    except ValueError as error:
        raise errors.RefusedArtifact(f"cannot be read: {str(error)[:200]}", subject=CONFIG) from None


def _decode(text: bytes) -> str:
    encoding = json.detect_encoding(text)
    try:
        return text.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8 or UTF-16") from None


def _canonical(value: Any) -> Any:
    """Return the canonical form of a value: sorted lists, and integers for whole floats."""
    if isinstance(value, list):
        return sorted(value)
    if isinstance(value, dict):  # keep the order, since the first pattern that matches counts
        return {key: _canonical(entry) for key, entry in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    if _is_costly(text, kind):
        limits = f"has more than {_MAX_REPEATS[kind]} repeats or {_MAX_WAYS} ways to match"
        return f"{shorten(text)} is too long, {limits}, or repeats a group"
    try:
        with warnings.catch_warnings(action="error"):  # of sets that a later Python reads in another way
            re.compile(text)
    except (re.error, RecursionError, OverflowError, Warning):
        return f"{shorten(text)} is not a regular expression"
    return None


def _is_costly(text: str, kind: str) -> bool:
    """Tell whether a regular expression may take very long: it has many repeats or alternatives, or repeats a group."""
    is_long = len(text) > _MAX_PATTERN * (4 if kind == "target" else 1)
    refers = re.search(r"\)\s*[*+?{]|\\[1-9]|\(\?(?![:!=])", text)
    return is_long or count_repeats(text) > _MAX_REPEATS[kind] or count_ways(text) > _MAX_WAYS or refers is not None


def count_repeats(pattern: str) -> int:
    """Count the parts of a regular expression that it repeats, or leaves out.

    Without repeats of groups, a match takes a time of at most the length of the text to this power, for each way of
    :func:`count_ways`.
    """
    return len(_REPEAT.findall(_ESCAPED.sub("x", pattern)))


def count_ways(pattern: str) -> int:
    """Return the number of combinations of alternatives that a match may try.

    Of texts of which none begins with another one, such as ``(q|k|v)``, only one can match.
    """
    groups = [[_Branch()]]
    for part in _TOKEN.findall(pattern):
        if part.startswith("("):
            groups.append([_Branch()])
        elif part == "|":
            groups[-1].append(_Branch())
        else:
            ways = _add_ways(groups.pop()) if part == ")" and len(groups) > 1 else 1
            branch = groups[-1].pop()
            is_literal = branch.text is not None and _LITERAL.fullmatch(part) is not None
            groups[-1].append(_Branch(branch.ways * ways, f"{branch.text}{part}" if is_literal else None))
    return math.prod(map(_add_ways, groups))


class _Branch(NamedTuple):
    """An alternative: the ways to match it, and its text if it is one."""

    ways: int = 1
    text: str | None = ""


def _add_ways(branches: list[_Branch]) -> int:
    texts = sorted(branch.text for branch in branches if branch.text is not None)
    is_exclusive = len(texts) == len(branches) and not any(b.startswith(a) for a, b in itertools.pairwise(texts))
    return 1 if is_exclusive else sum(branch.ways for branch in branches)


_TOKEN = re.compile(r"\\.|\[\^?\]?[^\]]*\]|\(\?[:=!]|.", re.DOTALL)
_LITERAL = re.compile(r"[\w-]|\\\W")
_ESCAPED = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)  # an escaped character, or a set of characters
_REPEAT = re.compile(r"(?<!\()(?:[*+?]|\{[^}]*\})[?+]?")


_MODULE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
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
    "peft_type": ("LORA", lambda value: None),  # another type is refused with all unsupported fields
    "task_type": (None, _one_of(*_TASKS)),
    "r": (8, _check_rank),
    "lora_alpha": (8, _check_positive),
    "lora_dropout": (0.0, _check_fraction),
    "target_modules": (None, _check_targets),
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
