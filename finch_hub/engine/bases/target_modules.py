"""Choice of the linear modules that an adapter changes. Free of torch, so that a wrong name is refused at submit."""

from __future__ import annotations

import re
from collections.abc import Iterable

from finch_hub import errors
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.peft_config import match_patterns, match_targets
from finch_hub.specs.lora import LoRAConfig

_BLOCKS = {
    "attention": re.compile(r"(^|\.)(self_attn|self_attention|linear_attn|attention|attn|temporal_block)\."),
    "mlp": re.compile(r"(^|\.)(mlp|mlp_block|feed_forward|ffn)\."),
}
# PEFT refuses these modules in models with Mamba layers, whose kernels read the weights without calling the modules.
_MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
_MAMBA_MODULES = frozenset({"out_proj", "conv1d"})
_SHORT_NAMES = ("all-linear", *_BLOCKS)
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # as in PEFT, the first number in the path is the layer's


def match(config: LoRAConfig, layout: BaseLayout) -> tuple[str, ...]:
    """Return the paths of the modules that the configuration names, in the order of the base.

    Raises:
        InvalidSpec: one problem for each name, pattern or layer that matches nothing, with similar names, and for each
            module that cannot be adapted.
    """
    paths = list(layout.linear)
    names = {_name_of(path) for path in paths}
    problems: list[errors.Problem] = []
    chosen = _match_targets(config.target_modules, layout, paths, names, problems)
    excluded = set(match_targets(config.exclude_modules, paths))
    problems += [
        _unknown(name, "exclude_modules", names) for name in config.exclude_modules if not match_targets([name], paths)
    ]
    if config.layers_to_transform is not None:
        layers = {layer_of(path) for path in paths} - {None}
        fix = f"the base has layers 0 to {len(layers) - 1}"
        problems += [
            errors.Problem(what=f"there is no layer {layer}", where="layers_to_transform", fix=fix)
            for layer in config.layers_to_transform
            if layer not in layers
        ]
        in_layers = {path for path in chosen if layer_of(path) in config.layers_to_transform}
        if chosen and not in_layers and not problems:
            what = "these layers have none of the target modules"
            problems.append(errors.Problem(what=what, where="layers_to_transform", fix="omit it, or name other layers"))
        chosen = in_layers
    targets = tuple(path for path in paths if path in chosen and path not in excluded)
    problems += _find_unsupported(config, targets, layout)
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field):
            if not _is_pattern(pattern):
                problems.append(errors.Problem(what=f"{pattern!r} is not a regular expression", where=field))
            elif not any(match_patterns({pattern: True}, targets, False).values()):
                problems.append(_unknown(pattern, field, names, what="matches no adapted module"))
    if not targets and not problems:
        problems.append(errors.Problem(what="every target module is also excluded", where="exclude_modules"))
    if problems:
        raise errors.InvalidSpec(problems, subject="modules of the adapter")
    return targets


def names_head(config: LoRAConfig, layout: BaseLayout) -> bool:
    """Return whether the configuration names the language-model head."""
    targets = config.target_modules
    is_name = isinstance(targets, tuple) or (targets not in _SHORT_NAMES and _is_pattern(targets))
    return is_name and layout.head is not None and bool(match_targets(targets, [layout.head]))


def peft_targets(config: LoRAConfig, layout: BaseLayout) -> list[str] | str:
    """Return PEFT's `target_modules` for the same modules.

    Short names become module names. A regular expression stays, unless layers are given: PEFT accepts layers only with
    names, so the result is the full paths.
    """
    paths = list(layout.linear)
    if isinstance(config.target_modules, tuple):
        return sorted(set(config.target_modules))
    if config.target_modules in _SHORT_NAMES:
        chosen = _match_targets(config.target_modules, layout, paths, set(), [])
        names = {_name_of(path) for path in chosen}
        # If other modules have these names, linear or not, only full paths are unambiguous.
        others = {*paths, *_list_containers(layout.parameters)} - chosen
        return sorted(chosen if any(_name_of(path) in names for path in others) else names)
    return config.target_modules if config.layers_to_transform is None else sorted(match(config, layout))


def peft_layers(config: LoRAConfig) -> list[int] | None:
    """Return PEFT's `layers_to_transform` that belongs to :func:`peft_targets`."""
    is_pattern = isinstance(config.target_modules, str) and config.target_modules not in _SHORT_NAMES
    return None if is_pattern or config.layers_to_transform is None else list(config.layers_to_transform)


def default_rank(config: LoRAConfig) -> int:
    """Return the rank of modules without a rank pattern. "auto" is not known yet and counts as the usual 16."""
    return config.rank if isinstance(config.rank, int) else 16


def ranks_of(config: LoRAConfig, paths: Iterable[str]) -> dict[str, int]:
    """Return the rank of A and B in each module."""
    return match_patterns(config.rank_pattern, paths, default_rank(config))


def count_adapter_parameters(config: LoRAConfig, layout: BaseLayout) -> int:
    """Return the number of trainable parameters on this base.

    Raises:
        InvalidSpec: as from :func:`match`.
    """
    ranks, shapes = ranks_of(config, match(config, layout)), layout.linear
    return sum(rank * sum(shapes[path]) + (shapes[path][0] if config.use_dora else 0) for path, rank in ranks.items())


def layer_of(path: str) -> int | None:
    """Return the index of the module's decoder layer, None outside of the layers."""
    found = _LAYER.match(path)
    return int(found[1]) if found else None


def _match_targets(
    targets: tuple[str, ...] | str,
    layout: BaseLayout,
    paths: list[str],
    names: set[str],
    problems: list[errors.Problem],
) -> set[str]:
    field = "target_modules"
    if targets == "all-linear":
        if layout.fused:  # PEFT adapts these parameters too
            problems.append(_fused("'all-linear' includes experts", names, layout))
        return set(layout.inner_linear)
    if isinstance(targets, str):
        if targets in _BLOCKS:
            chosen = {path for path in paths if _BLOCKS[targets].search(path)}
            what = "has no modules in this architecture"
            if any(_BLOCKS[targets].search(name) for name in layout.fused):
                problems.append(_fused(f"{targets!r} includes experts", names, layout))
                return chosen
        elif _is_pattern(targets):
            chosen, what = set(match_targets(targets, paths)), "matches no whole module path"
            problems += [_embedding(path, names) for path in match_targets(targets, layout.embeddings)]
        else:
            problems.append(errors.Problem(what=f"{targets!r} is not a regular expression", where=field))
            return set()
        if not chosen and not problems:
            problems.append(_unknown(targets, field, names, what=what))
        return chosen
    for name in targets:
        if match_targets([name], layout.embeddings):
            problems.append(_embedding(name, names))
        elif not match_targets([name], paths) and layout.fused and "proj" in name:
            problems.append(_fused(f"{name!r} names no linear module", names, layout))
        elif not match_targets([name], paths):
            problems.append(_unknown(name, field, names))
    return set(match_targets(targets, paths))


def _find_unsupported(config: LoRAConfig, targets: Iterable[str], layout: BaseLayout) -> list[errors.Problem]:
    """Return problems of modules that PEFT, or a merge, cannot change."""
    problems = []
    if layout.model_type in _MAMBA_TYPES:
        refused = sorted({_name_of(path) for path in targets} & _MAMBA_MODULES)
        problems += [
            errors.Problem(
                what=f"PEFT does not adapt {name!r} in this architecture ({layout.model_type})",
                where="target_modules",
                fix=f"add exclude_modules={name}",
            )
            for name in refused
        ]
    if config.use_dora and not layout.transposed.isdisjoint(targets):
        what = "DoRA is not supported on the Conv1D modules of this base, whose weights are [in, out]"
        problems.append(errors.Problem(what=what, where="use_dora", fix="turn it off"))
    return problems


def _embedding(name: str, names: set[str]) -> errors.Problem:
    what = "is an embedding, which adapters do not change"
    return _unknown(_name_of(name), "target_modules", names, what=what)


def _fused(what: str, names: set[str], layout: BaseLayout) -> errors.Problem:
    fused = ", ".join(sorted({_short(name) for name in layout.fused}))
    reason = f"{what}: the experts of this base are fused ({fused}), and adapters do not change them"
    return errors.Problem(what=reason, where="target_modules", fix=f"name some of {', '.join(sorted(names))}")


def _unknown(name: str, field: str, names: set[str], *, what: str = "names no linear module") -> errors.Problem:
    near = errors.near(name, {*names, *_SHORT_NAMES} - {name}) or tuple(sorted(names))
    return errors.Problem(what=f"{name!r} {what}", where=field, fix=f"did you mean {', '.join(near)}?")


def _short(parameter: str) -> str:
    """Return the last names of a parameter, without the number of its layer."""
    return ".".join(parameter.split(".")[-3:])


def _list_containers(parameters: Iterable[str]) -> set[str]:
    """Return the paths of the modules that have one of these parameters, directly or in a part of them."""
    containers: set[str] = set()
    for name in parameters:
        path = name.rpartition(".")[0]
        while path and path not in containers:
            containers.add(path)
            path = path.rpartition(".")[0]
    return containers


def _name_of(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
