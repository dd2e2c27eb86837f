"""Meaning of PEFT's `adapter_config.json`: ranks, scales, modules, and parts beyond low-rank updates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from finch_hub import errors
from finch_hub.formats.json_checks import parse_object
from finch_hub.formats.peft_names import CONFIG
from finch_hub.formats.regular_files import read_regular_file

_T = TypeVar("_T")
ALL_LINEAR = "all-linear"
"""Value of `target_modules` for all linear modules but the language-model head."""


class _Part(NamedTuple):
    """A part of an adapter beyond low-rank updates: its name, the field without it, and why no sum can hold it."""

    name: str
    absent: object
    what: str
    fix: str


BEYOND_LOW_RANK = MappingProxyType(
    {
        "use_dora": _Part(
            "DoRA magnitudes",
            False,
            "has DoRA magnitudes, which rescale the base's weights and do not add up",
            "keep it apart and switch",
        ),
        "bias": _Part("trained biases", "none", "trained biases of the base", "train with bias='none'"),
        "modules_to_save": _Part(
            "whole modules (modules_to_save)",
            None,
            "replaces whole modules of the base (modules_to_save, or trained embeddings)",
            "merge it into its base instead",
        ),
        "embeddings": _Part("updates of embeddings", None, "adapts an embedding", "train it on linear modules only"),
    }
)
"""Parts of an adapter beyond low-rank updates of linear modules, by field. No field announces adapted embeddings."""


def config_text(config: Mapping[str, Any]) -> str:
    """Return a config as the text of its file, in which patterns keep their order."""
    return json.dumps(dict(sorted(config.items())), indent=2) + "\n"


def read_leniently(folder: Path) -> dict[str, Any]:
    """Return the config of a folder, empty if it cannot be read. The gate says why."""
    try:
        return parse_object(read_regular_file(folder / CONFIG))
    except (errors.RefusedArtifact, ValueError):
        return {}


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


def pick_modules(config: Mapping[str, Any], paths: Iterable[str]) -> list[str]:
    """Return the paths of the modules that PEFT adapts with this config.

    Args:
        paths: of modules that PEFT can adapt. With "all-linear", or without `target_modules`, all of them are targets.
    """
    candidates = list(paths)
    left_out = find_left_out(config, candidates)
    return [path for path in candidates if path not in left_out]


def find_left_out(config: Mapping[str, Any], paths: Collection[str]) -> dict[str, str]:
    """Return the paths that PEFT does not adapt with this config, with the field that leaves each out."""
    targets = config.get("target_modules")
    chosen = set(paths if targets is None or is_all_linear(targets) else match_targets(targets, paths))
    exact = frozenset(() if targets is None or isinstance(targets, str) else targets)  # in all layers, as in PEFT
    excluded = set(match_targets(config.get("exclude_modules") or (), paths))
    saved = [re.compile(rf"(^|.*\.){name}($|\..*)") for name in config.get("modules_to_save") or ()]
    is_in_layers = _layer_rule(config)
    left_out = {}
    for path in paths:
        if path in excluded:
            left_out[path] = "exclude_modules"
        elif any(regex.match(path) for regex in saved):
            left_out[path] = "modules_to_save"
        elif path not in chosen:
            left_out[path] = "target_modules"
        elif path not in exact and not is_in_layers(path):
            left_out[path] = "layers_to_transform"
    return left_out


def is_all_linear(targets: Any) -> bool:
    """Tell whether `target_modules` means all linear modules but the language-model head."""
    return isinstance(targets, str) and targets.lower() == ALL_LINEAR


def _layer_rule(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return a function that tells whether a path is in the layers of a config, counted as in PEFT."""
    layers, patterns = config.get("layers_to_transform"), config.get("layers_pattern") or ()
    if layers is None or layers == []:
        return lambda path: True
    indices = {layers} if isinstance(layers, int) else set(layers)
    names = [patterns] if isinstance(patterns, str) else patterns
    # The first number is the layer's. Later ones count experts.
    regexes = [re.compile(rf"(?:^|.*?\.){name}\.(\d+)\.") for name in names] or [re.compile(r".*?\.[^.]*\.(\d+)\.")]

    def is_in_layers(path: str) -> bool:
        found = next(filter(None, (regex.match(path) for regex in regexes)), None)
        return found is not None and int(found[1]) in indices

    return is_in_layers


def beyond_low_rank(config: Mapping[str, Any], places: Mapping[str, str] | None = None) -> tuple[errors.Problem, ...]:
    """Return the parts of an adapter beyond low-rank updates, which no sum can hold.

    Args:
        config: of the adapter.
        places: names of the file's tensors that are such parts, by field; the config may not mention them.
    """
    where = places or {}
    return tuple(
        errors.Problem(where=where.get(field, ""), what=what, fix=fix)
        for field, (_, absent, what, fix) in BEYOND_LOW_RANK.items()
        if where.get(field) or (config.get(field) or absent) != absent
    )


def _ends_of(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]
