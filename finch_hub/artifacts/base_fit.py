"""An adapter held against its base: names, shapes, new tokens, and copies of the base's own weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.artifacts.config_cleaning import count_repeats, count_ways
from finch_hub.artifacts.tensor_checks import check_cost_of_patterns
from finch_hub.formats import peft_config
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.float_conversion import Float32, to_float32
from finch_hub.formats.foreign_names import make_renaming
from finch_hub.formats.lora_modules import LoRAModule, describe_left_out
from finch_hub.formats.model_files import ModelFiles
from finch_hub.formats.peft_names import BASE_LAYER, PREFIX, split_name
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.formats.safetensors_header import FLOATS, NUMPY_CODES, TensorInfo

_VOCABULARY = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
_ROWS = 4096  # compared at once
_SHOWN = 20
_DEFAULTS = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
"""Field of the default for each field of patterns."""
# Relative rounding of a copy that was saved in another dtype than the base's.
_ROUNDING = {"BF16": 2.0**-8, "F16": 2.0**-10, "F32": 2.0**-23, "F64": 0.0}


def rename_to_base(names: Iterable[str], base: BaseLayout) -> dict[str, str]:
    """Return the name in this base for each tensor's name, which may be that of another model around the same layers.

    A tensor that fits nothing in the base keeps its name.
    """
    rename_module = make_renaming([*base.linear, *base.embeddings])
    rename_parameter = make_renaming(base.parameters)
    renamed = {}
    for name in names:
        path, part = split_name(name)
        if part is not None:
            suffix = name.removeprefix(PREFIX).removeprefix(path)
            renamed[name] = f"{PREFIX}{rename_module(path)}{suffix}"
        elif BASE_LAYER in path:
            module, _, rest = path.partition(BASE_LAYER)
            renamed[name] = f"{PREFIX}{rename_module(module)}{BASE_LAYER}{rest}"
        else:
            renamed[name] = PREFIX + rename_parameter(path)
    return renamed


def find_misfits(
    modules: Mapping[str, LoRAModule],
    others: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    base: BaseLayout,
) -> Iterator[errors.Problem]:
    """Yield every part of an adapter that this base does not have, has in another shape, or does not let adapt.

    Args:
        others: shapes of the tensors that the adapter stores whole, by their names in the base's state dict.
    """
    missing = 0
    if base.head is not None and base.head in modules and peft_config.is_all_linear(config.get("target_modules")):
        yield describe_left_out(base.head, "target_modules=all-linear")
    for path, module in modules.items():
        found = base.embeddings if module.embedding else base.linear
        shape = found.get(path)
        # The factors of an embedding have the shapes of the transposed weight.
        own = (module.inputs, module.outputs) if module.embedding else (module.outputs, module.inputs)
        if shape is None:
            missing += 1
            # To find similar names takes long, and nobody reads them for thousands of modules.
            yield _missing(path, found if missing <= _SHOWN else (), base)
        elif shape != own:
            yield _misshaped(path, own, shape)
        elif module.magnitude is not None and (module.embedding or path in base.transposed):
            what = "is DoRA of a weight that is [in, out] (Conv1D or an embedding), which is not supported"
            yield errors.Problem(where=path, what=what, fix="train it without DoRA")
    for name, whole in others.items():
        known = base.parameters.get(name)
        if known is None:
            yield _missing(name, (), base)
        elif known != whole:
            yield _misshaped(name, whole, known)
    if not base.transposed.isdisjoint(modules) and not (modules.keys() & base.linear.keys()) <= base.transposed:
        what = "adapts weights that are [in, out] (Conv1D) and others that are not, but a config has one flag for all"
        yield errors.Problem(what=what, fix="train one adapter for each kind")


def find_copies(file: SafetensorsFile, names: Mapping[str, str], base: BaseLayout) -> set[str]:
    """Return the tensors of a file that are copies of the base's own weights, up to rounding.

    Args:
        names: name in the base's state dict, by the name in the file.
    """
    if base.folder is None:
        return set()
    with ModelFiles(base.folder) as files:
        return {stored for stored, name in names.items() if _is_copy(file, stored, files, name)}


def describe_change(name: str, shape: tuple[int, ...], base: BaseLayout) -> errors.Problem:
    """Return the problem of a copy of a base's weight that has another shape or other values."""
    if shape != base.parameters[name]:
        return _misshaped(name, shape, base.parameters[name])
    what = "is a copy of the base's own weights, but differs from this base's"
    return errors.Problem(where=name, what=what, fix="name the base that it was trained on")


def fit_config(config: dict[str, Any], old: Mapping[str, tuple[int, float]], paths: Mapping[str, str]) -> None:
    """Change the fields of a config that name modules, after their paths were changed.

    Args:
        old: rank and scale of each module by its old path.
        paths: new path of each module by its old path.

    Raises:
        RefusedArtifact: it would need a pattern for each of too many modules.
    """
    targets = config["target_modules"]
    if not peft_config.is_all_linear(targets) and peft_config.find_left_out(config, list(paths.values())):
        pin_targets(config, paths.values())
    new = peft_config.ranks_and_scales(config, paths.values())
    if any(new[paths[path]] != meant for path, meant in old.items()):
        alphas = peft_config.match_patterns(config["alpha_pattern"], old, config["lora_alpha"])
        _name_modules(config, "rank_pattern", {paths[path]: rank for path, (rank, _) in old.items()})
        _name_modules(config, "alpha_pattern", {paths[path]: alpha for path, alpha in alphas.items()})


def spell_out_patterns(config: dict[str, Any], paths: Collection[str]) -> bool:
    """Let patterns of ranks and alphas name modules if one of them repeats a part or tries several ways.

    PEFT matches each pattern with each module of the base, which may have many and long names.

    Returns:
        Whether the config was changed.

    Raises:
        RefusedArtifact: it would need a pattern for each of too many modules.
    """
    is_changed = False
    for field, default in _DEFAULTS.items():
        if any(count_repeats(pattern) or count_ways(pattern) > 1 for pattern in config[field]):
            _name_modules(config, field, peft_config.match_patterns(config[field], paths, config[default]))
            is_changed = True
    return is_changed


def _name_modules(config: dict[str, Any], field: str, values: Mapping[str, Any]) -> None:
    """Let a field of patterns, in which the first match counts, name modules.

    Raises:
        RefusedArtifact: the modules are so many that readers would match them for minutes.
    """
    default = config[_DEFAULTS[field]]
    patterns = {path: value for path, value in sorted(values.items()) if value != default}
    check_cost_of_patterns({field: patterns}, values)
    if peft_config.match_patterns(patterns, values, default) != values:
        # The end of one path is another path. The longest pattern that fits a path is its own.
        patterns = {re.escape(path): values[path] for path in sorted(values, key=lambda path: (-len(path), path))}
        check_cost_of_patterns({field: patterns}, values)
    config[field] = patterns


def pin_targets(config: dict[str, Any], paths: Iterable[str]) -> None:
    """Let a config name its modules by their whole paths."""
    places = dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
    config.update({**places, "target_modules": sorted(paths)})


def find_absent(modules: Collection[str], config: Mapping[str, Any], base: BaseLayout) -> list[str]:
    """Return the modules of a base that a config picks, and of which an adapter has no tensors."""
    is_all_linear = peft_config.is_all_linear(config.get("target_modules"))
    known = base.inner_linear if is_all_linear else [*base.linear, *base.embeddings]
    return [path for path in peft_config.pick_modules(config, known) if path not in modules]


def _missing(path: str, known: Iterable[str], base: BaseLayout) -> errors.Problem:
    experts = path.partition(".experts.")[0] + ".experts."
    fused = [name for name in base.parameters if name.startswith(experts)] if ".experts." in path else []
    if fused:
        what = f"is not a module of base {base.name}, which keeps all experts in one tensor ({fused[0]})"
        return errors.Problem(where=path, what=what, fix="train an adapter of its other modules")
    near = errors.near(path, known)
    fix = f"similar: {', '.join(near)}" if near else "name the base that it was trained on"
    return errors.Problem(where=path, what=f"is not in base {base.name}", fix=fix)


def _misshaped(path: str, own: tuple[int, ...], shape: tuple[int, ...]) -> errors.Problem:
    what = f"is {list(own)} in the adapter, {list(shape)} in the base"
    is_vocabulary = len(own) == len(shape) == 2 and own[1] == shape[1] and own[0] > shape[0]
    if is_vocabulary and path.removesuffix(".weight").endswith(_VOCABULARY):
        fix = "save the base with the resized embeddings and its tokenizer, and register that folder as the base"
        return errors.Problem(where=path, what=f"{what}: it has {own[0] - shape[0]} new tokens", fix=fix)
    return errors.Problem(where=path, what=what, fix="name the base that it was trained on")


def _is_copy(file: SafetensorsFile, stored: str, files: ModelFiles, name: str) -> bool:
    source = files.find(name) or (files.embedding if files.is_tied and name == "lm_head.weight" else None)
    if source is None or file.tensors[stored].shape != files.info(source).shape:
        return False
    own, theirs = file.tensors[stored], files.info(source)
    if not {own.dtype, theirs.dtype} <= FLOATS:
        return False
    base = files.shards[files.shard_of[source]]
    tolerance = 0.0 if own.dtype == theirs.dtype else max(_ROUNDING[own.dtype], _ROUNDING[theirs.dtype])
    rows, width = own.shape[0], own.elements // own.shape[0]
    for start in range(0, rows, _ROWS):
        count = min(_ROWS, rows - start)
        first, second = (_read_rows(*place, start * width, count * width) for place in ((file, own), (base, theirs)))
        if not np.allclose(first, second, rtol=tolerance, atol=0.0):
            return False
    return True


def _read_rows(file: SafetensorsFile, info: TensorInfo, start: int, count: int) -> Float32:
    values = np.empty(count, NUMPY_CODES[info.dtype])
    file.read_into(values.data.cast("B"), info.start + start * values.itemsize)
    return to_float32(values, info.dtype)
