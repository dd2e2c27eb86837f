"""Names of an untrusted adapter's tensors, brought to those that PEFT writes for its base today."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.artifacts import base_fit, tensor_checks
from finch_hub.formats import peft_config, quantized
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.foreign_names import canonical_name, describe_renaming
from finch_hub.formats.lora_modules import describe_left_out
from finch_hub.formats.peft_names import BASE_LAYER, CONFIG, split_name
from finch_hub.formats.safetensors_file import SafetensorsFile

_COPY = f"{BASE_LAYER}weight"
_UNUSED = ".original_module."  # the base's own module beside one that is stored whole


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedTensors:
    """Tensors under new names.

    Attributes:
        names: new name of each tensor by its name in the file, without tensors that are left out.
        notes: sentences that say what was changed.
        problems: of names that fall together.
    """

    names: Mapping[str, str]
    notes: tuple[str, ...]
    problems: tuple[errors.Problem, ...]


def name_tensors(
    file: SafetensorsFile, config: dict[str, Any], *, is_pinned: bool, base: BaseLayout | None
) -> NamedTensors:
    """Return the tensors under the names that PEFT writes today, and change the config's module names to fit.

    Args:
        is_pinned: whether the config names no modules, so that the file's tensors tell them.
        base: modules of the base, whose names may differ from those of the model that was trained.

    Raises:
        RefusedArtifact: the config has too many patterns for this many modules, or leaves out some of them.
    """
    scales = quantized.scales_of(file.tensors)
    canonical = {name: canonical_name(name) for name in file.tensors if name not in scales and _UNUSED not in name}
    fitted = {name: name for name in canonical.values()}
    if base is not None:
        fitted = base_fit.rename_to_base(fitted, base)
    names = {name: fitted[new] for name, new in canonical.items()}
    notes: list[str] = []
    if example := describe_renaming(names):
        notes.append(f"tensors have the names of PEFT and of the base: {example}")
    paths = {split_name(old)[0]: split_name(new)[0] for old, new in fitted.items() if split_name(old)[1] is not None}
    tensor_checks.check_cost_of_patterns(config, paths, len(fitted))
    # PEFT reads the config with the names of the file, or with those of this base.
    left_out = peft_config.find_left_out(config, paths)
    remaining = peft_config.find_left_out(config, [paths[old] for old in left_out])
    problems = [describe_left_out(old, field) for old, field in left_out.items() if paths[old] in remaining]
    if problems:
        raise errors.RefusedArtifact(problems, subject=CONFIG)
    if is_pinned:
        base_fit.pin_targets(config, paths)
        notes.append(
            "target_modules has the modules of the file, since its own value is missing, too costly or not all"
        )
    if base_fit.spell_out_patterns(config, paths):
        notes.append("rank_pattern and alpha_pattern name modules, since their patterns could take long")
    if any(old != new for old, new in paths.items()):
        base_fit.fit_config(config, peft_config.ranks_and_scales(config, paths), paths)
    taken: dict[str, str] = {}
    for old, new in sorted(names.items()):
        if (other := taken.setdefault(new, old)) == old:
            continue
        if _is_same(file, old, other):
            del names[old]
        else:
            problems.append(errors.Problem(where=old, what=f"is the same tensor as {other}, with other values"))
    for name in sorted(scales, key=len):  # a scale of a scale is refused later, by its name
        scaled = names.get(name.removesuffix(quantized.SCALE))
        if scaled is not None:  # otherwise its tensor was left out
            names[name] = scaled + quantized.SCALE
    return NamedTensors(names=names, notes=tuple(notes), problems=tuple(problems))


def drop_copies(named: NamedTensors, file: SafetensorsFile, config: dict[str, Any], base: BaseLayout) -> NamedTensors:
    """Leave out copies of the base's own weights, and announce other whole tensors in the config.

    PEFT stores the embeddings beside an adapter that adapts them, or if the vocabulary was resized.
    """
    saved = [f".{module}." for module in config["modules_to_save"] or ()]
    wholes: dict[str, str] = {}
    for old, new in named.names.items():
        path, part = split_name(new)
        is_announced = any(module in f".{path}" for module in saved) and not path.endswith(_COPY)
        if part is None and not is_announced and not (path.endswith(".bias") and config["bias"] != "none"):
            wholes[old] = path.replace(_COPY, ".weight")
    wholes = {old: name for old, name in wholes.items() if name in base.parameters}
    if not wholes:
        return named
    copies = base_fit.find_copies(file, wholes, base)
    notes, problems = [*named.notes], [*named.problems]
    if copies:
        left_out = ", ".join(sorted(wholes[old] for old in copies))
        notes.append(f"copies of the base's own weights are left out: {left_out}")
    others = {old: wholes[old] for old in sorted(wholes.keys() - copies)}
    changed = [old for old in others if old.endswith(_COPY)]
    problems += [base_fit.describe_change(others[old], file.tensors[old].shape, base) for old in changed]
    if modules := {
        name.removesuffix(".weight").removesuffix(".bias") for old, name in others.items() if old not in changed
    }:
        config["modules_to_save"] = sorted({*(config["modules_to_save"] or ()), *modules})
        notes.append(f"modules_to_save names modules that are stored whole: {', '.join(sorted(modules))}")
    names = {old: new for old, new in named.names.items() if old not in copies and old not in changed}
    return NamedTensors(names=names, notes=tuple(notes), problems=tuple(problems))


def drop_announcements(config: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Leave out what a config announces and a file does not have, such as biases of a base without any.

    Returns:
        Sentences that say what was left out.
    """
    paths = [split_name(name)[0] for name in names if split_name(name)[1] is None]
    saved = [module for module in config["modules_to_save"] or () if any(f".{module}." in f".{path}" for path in paths)]
    notes = []
    if len(saved) < len(config["modules_to_save"] or ()):
        config["modules_to_save"] = saved or None
        notes.append("modules_to_save names only modules that the file has")
    if config["bias"] != "none" and not any(path.endswith(".bias") for path in paths):
        config["bias"] = "none"
        notes.append("bias is none, since the file has no biases")
    return notes


def _is_same(file: SafetensorsFile, first: str, second: str) -> bool:
    one, other = file.tensors[first], file.tensors[second]
    same_form = (one.dtype, one.shape) == (other.dtype, other.shape)
    return same_form and np.array_equal(file.read_stored(first), file.read_stored(second))
