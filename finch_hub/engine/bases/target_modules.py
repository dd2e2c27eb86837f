"""Choice of the linear modules that an adapter changes. Free of torch, so that a wrong name is refused at submit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from finch_hub import errors
from finch_hub.formats.peft_config import match_patterns, match_targets
from finch_hub.specs.lora import LoRAConfig

# Matrices that are looked up by token or position, or tied to such a matrix.
_EMBEDDINGS = frozenset({"embed_tokens", "embed_positions", "embed_in", "embed_out", "wte", "wpe", "lm_head"})
_BLOCKS = {
    "attention": re.compile(r"(^|\.)(self_attn|self_attention|attention|attn)\."),
    "mlp": re.compile(r"(^|\.)(mlp|feed_forward|ffn)\."),
}
_SHORT_NAMES = ("all-linear", *_BLOCKS)
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # as in PEFT, the first number in the path is the layer's


def is_embedding(path: str) -> bool:
    """Tell whether the module is an embedding or the language-model head."""
    return _name_of(path) in _EMBEDDINGS


def match(config: LoRAConfig, modules: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of the modules that the configuration names, in the given order.

    Raises:
        InvalidSpec: one problem for each name, pattern or layer that matches nothing, with similar names.
    """
    paths = [path for path in modules if not is_embedding(path)]
    names = {_name_of(path) for path in paths}
    problems: list[errors.Problem] = []
    chosen = _match_targets(config.target_modules, paths, names, problems)
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


def peft_targets(config: LoRAConfig, modules: Iterable[str]) -> list[str] | str:
    """Return PEFT's `target_modules` for the same modules.

    Short names become module names. A regular expression stays, unless layers are given: PEFT accepts layers only with
    names, so the result is the full paths.
    """
    paths = [path for path in modules if not is_embedding(path)]
    if isinstance(config.target_modules, tuple):
        return sorted(set(config.target_modules))
    if config.target_modules in _SHORT_NAMES:
        chosen = _match_targets(config.target_modules, paths, set(), [])
        names = {_name_of(path) for path in chosen}
        # If another block has modules of the same names, only full paths are unambiguous.
        return sorted(names if chosen == {path for path in paths if _name_of(path) in names} else chosen)
    return config.target_modules if config.layers_to_transform is None else sorted(match(config, paths))


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


def count_adapter_parameters(config: LoRAConfig, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return the number of trainable parameters for modules of these shapes (out, in).

    Raises:
        InvalidSpec: as from :func:`match`.
    """
    ranks = ranks_of(config, match(config, shapes))
    return sum(rank * sum(shapes[path]) + (shapes[path][0] if config.use_dora else 0) for path, rank in ranks.items())


def layer_of(path: str) -> int | None:
    """Return the index of the module's decoder layer, None outside of the layers."""
    found = _LAYER.match(path)
    return int(found[1]) if found else None


def _match_targets(
    targets: tuple[str, ...] | str, paths: list[str], names: set[str], problems: list[errors.Problem]
) -> set[str]:
    if targets == "all-linear":
        return set(paths)
    if isinstance(targets, str):
        if targets in _BLOCKS:
            chosen = {path for path in paths if _BLOCKS[targets].search(path)}
            what = "has no modules in this architecture"
        elif _is_pattern(targets):
            chosen, what = set(match_targets(targets, paths)), "matches no whole module path"
        else:
            problems.append(errors.Problem(what=f"{targets!r} is not a regular expression", where="target_modules"))
            return set()
        if not chosen:
            problems.append(_unknown(targets, "target_modules", names, what=what))
        return chosen
    for name in targets:
        if is_embedding(name):
            what = "is the embedding or head, which adapters do not change"
            problems.append(_unknown(name, "target_modules", names, what=what))
        elif not match_targets([name], paths):
            problems.append(_unknown(name, "target_modules", names))
    return set(match_targets(targets, paths))


def _unknown(name: str, field: str, names: set[str], *, what: str = "names no linear module") -> errors.Problem:
    near = errors.near(name, names | set(_SHORT_NAMES)) or tuple(sorted(names))
    return errors.Problem(what=f"{name!r} {what}", where=field, fix=f"did you mean {', '.join(near)}?")


def _name_of(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
