"""What an untrusted `adapter_config.json` may say, and the cleaned one that is stored instead."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finch_hub import errors

NAME = "adapter_config.json"
MAX_RANK = 1024
_MAX_BYTES = 2**20
_MAX_PATTERN = 256
_MAX_REPEATS = {"pattern": 2, "target": 6}


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanConfig:
    """A config without anything that names code, files or machines.

    Attributes:
        values: PEFT's fields, each within the range that the hub supports.
        claimed_base: what the file says its base is; never followed.
        claimed_revision: likewise.

    """

    values: Mapping[str, Any]
    claimed_base: str | None
    claimed_revision: str | None

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return canonical_json(self.values)


def canonical_json(values: Mapping[str, Any]) -> bytes:
    """Write a config in the one form that is hashed; within the patterns the order stays, since it has a meaning."""
    return (json.dumps(dict(sorted(values.items())), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def clean_config(text: bytes) -> CleanConfig:
    """Read a config and keep what describes a LoRA adapter.

    Whatever is not known must be empty or have PEFT's default value, which is what genuine configs carry; then it is
    dropped, since a reader puts it back.

    Raises:
        RefusedArtifact: with every field that names code or files, is of another adapter type, or has no sense.

    """
    raw = _parse(text)
    problems: list[errors.Problem] = []
    values: dict[str, Any] = {"base_model_name_or_path": None, "inference_mode": True, "init_lora_weights": True}
    for field, (default, check) in _KEPT.items():
        value = raw.pop(field, default)
        if value is None and default is not _REQUIRED:
            value = default
        what = check(value) if value != default or default is _REQUIRED else None
        if what is not None:
            shown = "is missing" if value is _REQUIRED else f"is {_shown(value)}"
            problems.append(errors.Problem(where=field, what=f"{shown}; {what}"))
        else:
            values[field] = default if value == default else _canonical(value)
    init = raw.pop("init_lora_weights", True)
    if not isinstance(init, bool) and init not in _HARMLESS_INITS:
        fix = "convert it with PEFT (path_initial_model_for_weight_conversion) and import the result"
        what = f"is {_shown(init)}, which changes the base's weights"
        problems.append(errors.Problem(where="init_lora_weights", what=what, fix=fix))
    claims = {field: raw.pop(field, None) for field in ("base_model_name_or_path", "revision")}
    for field, claim in claims.items():
        if claim is not None and not isinstance(claim, str):
            problems.append(errors.Problem(where=field, what=f"is {_shown(claim)}; it must be a text"))
    for field in _IGNORED:
        raw.pop(field, None)
    for field, value in sorted(raw.items()):
        defaults = _DEFAULTS.get(field, ())
        if value is None or value is False or value in ({}, []) or value in defaults:
            continue
        what = f"is {_shown(value)}; only PEFT's default is let in" if field in _DEFAULTS else "is not known"
        why = _REASONS.get(field, "it would change what the adapter means, or what loading it does")
        problems.append(errors.Problem(where=field[:60], what=what, fix=why))
    if problems:
        raise errors.RefusedArtifact(problems, subject=NAME)
    return CleanConfig(
        values=values, claimed_base=claims["base_model_name_or_path"], claimed_revision=claims["revision"]
    )


def beyond_low_rank(config: Mapping[str, Any], places: Mapping[str, str] | None = None) -> tuple[errors.Problem, ...]:
    """Name what an adapter has beyond plain low-rank updates, which no sum of updates can carry.

    `places` names the tensors that its file holds of it, by the config's field; the config may be silent about them.
    """
    where = places or {}
    return tuple(
        errors.Problem(where=where.get(field, ""), what=what, fix=fix)
        for field, (without, what, fix) in _BEYOND.items()
        if where.get(field) or (config.get(field) or without) != without
    )


def expected_ranks(config: Mapping[str, Any], modules: Sequence[str]) -> dict[str, int]:
    """Return the rank that each module must have.

    Raises:
        RefusedArtifact: so many patterns for so many modules that matching them would take minutes.

    """
    return _matched("rank_pattern", config, modules, config["r"])


def scales(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, float]:
    """Return the factor of ``B @ A`` in each module: alpha over rank, or over its root for rsLoRA.

    Raises:
        RefusedArtifact: as above.

    """
    alphas = _matched("alpha_pattern", config, list(ranks), config["lora_alpha"])
    return {
        module: alpha / (math.sqrt(ranks[module]) if config["use_rslora"] else ranks[module])
        for module, alpha in alphas.items()
    }


def targets(config: Mapping[str, Any], module: str) -> bool:
    """Tell whether a reader of the config would adapt this module; what it would not is never loaded, or checked."""
    wanted = config["target_modules"]
    if wanted == "all-linear":
        return True  # which modules are linear, only the base knows
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    parts = module.split(".")
    return not set(wanted).isdisjoint(".".join(parts[i:]) for i in range(len(parts)))


def _matched(field: str, config: Mapping[str, Any], modules: Sequence[str], default: Any) -> dict[str, Any]:
    """Return each module's entry of a pattern; as in PEFT, the first key that matches the path's end counts."""
    patterns: Mapping[str, Any] = config[field]
    if len(patterns) * len(modules) > 5_000_000:
        raise errors.RefusedArtifact(errors.Problem(where=field, what="has too many patterns"), subject=NAME)
    compiled = [(re.compile(rf"(.*\.)?({key})$"), value) for key, value in patterns.items()]
    return {
        module: next((value for pattern, value in compiled if pattern.match(module)), default) for module in modules
    }


def _parse(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a field stands twice")
        return dict(pairs)

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is no JSON")

    try:
        if len(text) > _MAX_BYTES:
            raise ValueError(f"it has {len(text)} bytes, more than {_MAX_BYTES}")
        parsed = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse)
        if not isinstance(parsed, dict):
            raise ValueError("it is no JSON object")
        json.dumps(parsed, ensure_ascii=False).encode()  # half of a surrogate pair passes json.loads
    except (ValueError, RecursionError) as error:
        problem = errors.Problem(what=f"cannot be read: {str(error)[:200]}")
        raise errors.RefusedArtifact(problem, subject=NAME) from None
    return parsed


def _canonical(value: Any) -> Any:
    """Return the one form of values that mean the same: order in lists has no meaning, nor has 32.0 against 32."""
    if isinstance(value, list):
        return sorted(value)
    if isinstance(value, dict):  # whose order has a meaning: the first pattern that matches counts
        return {key: _canonical(entry) for key, entry in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# The checks return what is wrong, or None.
_Check = Callable[[Any], str | None]


def _one_of(*allowed: Any) -> _Check:
    def check(value: Any) -> str | None:
        fits = any(type(value) is type(option) and value == option for option in allowed)
        return None if fits else f"it must be {' or '.join(repr(option) for option in allowed)}"

    return check


def _whole(value: Any) -> str | None:
    return None if type(value) is int and 1 <= value <= MAX_RANK else f"it must be a whole number from 1 to {MAX_RANK}"


def _positive(value: Any) -> str | None:
    fits = type(value) in (int, float) and 0 < value < 1e6 and math.isfinite(value)
    return None if fits else "it must be a number above 0"


def _share(value: Any) -> str | None:
    return None if type(value) in (int, float) and 0 <= value < 1 else "it must be at least 0 and below 1"


def _names(value: Any) -> str | None:
    fits = isinstance(value, list) and all(isinstance(name, str) and _MODULE.fullmatch(name) for name in value)
    return None if fits else "it must be a list of module names"


def _target(value: Any) -> str | None:
    if not value:
        return "it must name modules"
    return _regex(value, "target") if isinstance(value, str) else _names(value)


def _layers(value: Any) -> str | None:
    indices = value if isinstance(value, list) else [value]
    fits = all(type(index) is int and 0 <= index < 10_000 for index in indices)
    return None if fits else "it must be layer indices"


def _prefixes(value: Any) -> str | None:
    return _names(value if isinstance(value, list) else [value])


def _pattern_of(check: _Check) -> _Check:
    def check_pattern(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "it must be a table"
        found = (_regex(key, "pattern") or check(entry) for key, entry in value.items())
        return next((what for what in found if what is not None), None)

    return check_pattern


def _regex(text: str, kind: str) -> str | None:
    """Let regular expressions through that cannot take exponential time: few repeats, and none of a group."""
    repeats = len(re.findall(r"(?<!\\)[*+{]", text))
    if len(text) > _MAX_PATTERN * (4 if kind == "target" else 1) or repeats > _MAX_REPEATS[kind]:
        return f"{_shown(text)} is too long, or has more than {_MAX_REPEATS[kind]} repeats"
    if re.search(r"\)\s*[*+?{]|\\[1-9]|\(\?(?![:!=])", text):
        return f"{_shown(text)} repeats a group, or refers to one"
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return f"{_shown(text)} is no regular expression"
    return None


_MODULE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_REQUIRED = object()
_boolean = _one_of(False, True)
_tasks = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

# Every field that is stored: PEFT's default, and what else it may be.
_KEPT: dict[str, tuple[Any, _Check]] = {
    "peft_type": (_REQUIRED, _one_of("LORA")),
    "task_type": (None, _one_of(*_tasks)),
    "r": (8, _whole),
    "lora_alpha": (8, _positive),
    "lora_dropout": (0.0, _share),
    "target_modules": (_REQUIRED, _target),
    "exclude_modules": (None, lambda value: _regex(value, "target") if isinstance(value, str) else _names(value)),
    "modules_to_save": (None, _names),
    "bias": ("none", _one_of("none", "all", "lora_only")),
    "lora_bias": (False, _boolean),
    "fan_in_fan_out": (False, _boolean),
    "use_rslora": (False, _boolean),
    "use_dora": (False, _boolean),
    "layers_to_transform": (None, _layers),
    "layers_pattern": (None, _prefixes),
    "rank_pattern": ({}, _pattern_of(_whole)),
    "alpha_pattern": ({}, _pattern_of(_positive)),
}

# Parts of an adapter that are no sum of low-rank updates, by field: its value without them, what and what to do.
_BEYOND: dict[str, tuple[object, str, str]] = {
    "use_dora": (
        False,
        "has DoRA magnitudes, which rescale the base's weights and do not add up",
        "keep it apart and switch",
    ),
    "bias": ("none", "trained biases of the base", "train with bias='none'"),
    "modules_to_save": (
        None,
        "replaces whole modules of the base (modules_to_save, or trained embeddings)",
        "keep it apart and switch",
    ),
}

# They say how training began, or which PEFT wrote the file; nothing of it is needed to read the weights.
_IGNORED = ("inference_mode", "peft_version", "eva_config", "runtime_config", "qalora_group_size")
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal")

# Fields of PEFT that name code, files or another kind of adapter: only these values, or an empty one, are let in.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "auto_map": (),
    "auto_mapping": (),
    "megatron_config": (),
    "megatron_core": ("megatron.core",),
    "corda_config": (),
    "lora_ga_config": (),
    "loftq_config": (),
    "layer_replication": (),
    "trainable_token_indices": (),
    "alora_invocation_tokens": (),
    "target_parameters": (),
    "use_qalora": (),
    "use_bdlora": (),
    "arrow_config": (),
    "kasa_config": (),
    "velora_config": (),
    "monteclora_config": (),
    "ensure_weight_tying": (),
}
_REASONS = {
    "auto_map": "it names code to run",
    "auto_mapping": "it names code to run; set task_type to CAUSAL_LM and auto_mapping to null",
    "megatron_config": "it names code to run",
    "megatron_core": "it names code to run",
    "corda_config": "it names files to read",
    "lora_ga_config": "it names files to read",
    "loftq_config": "such an adapter needs its own changed base",
}
