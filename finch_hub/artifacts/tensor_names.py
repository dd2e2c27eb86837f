"""Names of an untrusted adapter's tensors, brought to those that PEFT writes for its base today."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.artifacts import base_fit
from finch_hub.formats import peft_config, quantized
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.foreign_names import canonical_name, describe_renaming
from finch_hub.formats.peft_names import split_name
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.formats.safetensors_header import TensorInfo

_COPY = ".base_layer.weight"


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
    tensors: Mapping[str, TensorInfo], config: dict[str, Any], *, is_pinned: bool, base: BaseLayout | None
) -> NamedTensors:
    """Return the tensors under the names that PEFT writes today, and change the config's module names to fit.

    Args:
        is_pinned: whether the config names no modules, so that the file's tensors tell them.
        base: modules of the base, whose names may differ from those of the model that was trained.
    """
    scales = quantized.scales_of(tensors)
    canonical = {name: canonical_name(name) for name in tensors if name not in scales}
    fitted = (
        {name: name for name in canonical.values()}
        if base is None
        else base_fit.rename_to_base(canonical.values(), base)
    )
    names = {name: fitted[canonical[name]] for name in canonical}
    notes: list[str] = []
    if example := describe_renaming(names):
        notes.append(f"tensors have the names of PEFT and of the base: {example}")
    paths = {split_name(old)[0]: split_name(new)[0] for old, new in fitted.items() if split_name(old)[1] is not None}
    if is_pinned:
        base_fit.pin_targets(config, paths)
        notes.append("target_modules is missing or a costly pattern: it names the modules of the file instead")
    if any(old != new for old, new in paths.items()):
        base_fit.fit_config(config, peft_config.ranks_and_scales(config, paths), paths)
    taken: dict[str, str] = {}
    problems = []
    for old, new in names.items():
        if (other := taken.setdefault(new, old)) != old:
            problems.append(errors.Problem(where=old, what=f"is the same tensor as {other}"))
    for name in sorted(scales, key=len):  # a scale of a scale is refused later, by its name
        names[name] = names[name.removesuffix(quantized.SCALE)] + quantized.SCALE
    return NamedTensors(names=names, notes=tuple(notes), problems=tuple(problems))


def drop_copies(named: NamedTensors, weights: Path, config: dict[str, Any], base: BaseLayout) -> NamedTensors:
    """Leave out copies of the base's own weights, and announce other whole tensors in the config.

    PEFT stores the embeddings beside an adapter that adapts them, or if the vocabulary was resized.
    """
    saved = [f".{module}." for module in config["modules_to_save"] or ()]
    wholes: dict[str, str] = {}
    for old, new in named.names.items():
        path, part = split_name(new)
        is_bias = path.endswith(".bias") and config["bias"] != "none"
        if part is None and not is_bias and not any(module in f".{path}" for module in saved):
            wholes[old] = path.replace(_COPY, ".weight")
    wholes = {old: name for old, name in wholes.items() if name in base.parameters}
    if not wholes:
        return named
    with SafetensorsFile(weights) as file:
        copies = base_fit.find_copies(file, wholes, base)
    notes = [*named.notes]
    names = {old: new for old, new in named.names.items() if old not in copies}
    if copies:
        notes.append(
            f"copies of the base's own weights are left out: {', '.join(sorted(wholes[old] for old in copies))}"
        )
    changed = sorted(wholes[old] for old in wholes.keys() - copies if not names[old].endswith(_COPY))
    if changed:
        modules = {name.removesuffix(".weight").removesuffix(".bias") for name in changed}
        config["modules_to_save"] = sorted({*(config["modules_to_save"] or ()), *modules})
        notes.append(f"modules_to_save names modules that are stored whole: {', '.join(sorted(modules))}")
    return dataclasses.replace(named, names=names, notes=tuple(notes))
