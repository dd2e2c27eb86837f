"""Meaning of PEFT's `adapter_config.json`: ranks, scales, targets, and fields that change LoRA's arithmetic."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from finch_hub import errors

_T = TypeVar("_T")
HARMLESS_INITS = ("gaussian", "eva", "orthogonal")
"""Initializations that leave the base's weights alone; PiSSA, OLoRA, CorDA, LoftQ and others move a part of them."""
VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "megatron_config",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
"""Fields that change LoRA's arithmetic beyond rank, scale, rsLoRA and DoRA."""

# Parts of an adapter beyond low-rank updates, by field: the value without them, the problem and the fix.
_BEYOND_LOW_RANK: dict[str, tuple[object, str, str]] = {
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


def config_text(config: Mapping[str, Any]) -> str:
    """Return a config as the text of its file."""
    return json.dumps(dict(config), indent=2, sort_keys=True) + "\n"


def ranks_and_scales(config: Mapping[str, Any], paths: Collection[str]) -> dict[str, tuple[int, float]]:
    """Return each module's rank and scale in PEFT.

    The scale is alpha / rank, or alpha / sqrt(rank) with rsLoRA.
    """
    ranks = match_patterns(config.get("rank_pattern") or {}, paths, config.get("r", 8))
    alphas = match_patterns(config.get("alpha_pattern") or {}, paths, config.get("lora_alpha", 8))
    return {
        path: (int(rank), float(alphas[path]) / (math.sqrt(int(rank)) if config.get("use_rslora") else int(rank)))
        for path, rank in ranks.items()
    }


def match_patterns(patterns: Mapping[str, _T], paths: Iterable[str], default: _T) -> dict[str, _T]:
    """Return each path's value in a `rank_pattern` or `alpha_pattern`, as PEFT reads it.

    The first pattern counts that matches the end of the path, after a dot or from the beginning.
    """
    compiled = [(re.compile(rf"(.*\.)?({pattern})$"), value) for pattern, value in patterns.items()]
    return {path: next((value for regex, value in compiled if regex.match(path)), default) for path in paths}


def match_targets(targets: str | Collection[str], paths: Iterable[str]) -> list[str]:
    """Return the paths that `target_modules` picks in PEFT.

    A text is a regular expression for the whole path. A list has names that a path equals or ends with after a dot.
    """
    if isinstance(targets, str):
        return [path for path in paths if re.fullmatch(targets, path)]
    names = set(targets)
    return [path for path in paths if not names.isdisjoint(_ends_of(path))]


def beyond_low_rank(config: Mapping[str, Any], places: Mapping[str, str] | None = None) -> tuple[errors.Problem, ...]:
    """Return the parts of an adapter beyond low-rank updates, which no sum can hold.

    Args:
        config: of the adapter.
        places: names of the file's tensors that are such parts, by field; the config may not mention them.
    """
    where = places or {}
    return tuple(
        errors.Problem(where=where.get(field, ""), what=what, fix=fix)
        for field, (absent, what, fix) in _BEYOND_LOW_RANK.items()
        if where.get(field) or (config.get(field) or absent) != absent
    )


def unsupported_variants(config: Mapping[str, Any]) -> Iterable[errors.Problem]:
    """Yield what makes an adapter more than LoRA with rsLoRA and DoRA."""
    if config.get("peft_type") != "LORA":
        yield errors.Problem(where="peft_type", what=f"is {config.get('peft_type')!r}, not 'LORA'")
    init = config.get("init_lora_weights")
    if init not in (None, True, False, *HARMLESS_INITS):
        fix = "convert it with PEFT (path_initial_model_for_weight_conversion)"
        yield errors.Problem(where="init_lora_weights", what=f"{init!r} changes the base's weights", fix=fix)
    for field in VARIANTS:
        if config.get(field):
            yield errors.Problem(where=field, what="changes LoRA's arithmetic in an unsupported way")


def _ends_of(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]
