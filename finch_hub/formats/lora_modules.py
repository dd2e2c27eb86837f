"""Modules of a LoRA adapter, found by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from finch_hub import errors
from finch_hub.formats import peft_config
from finch_hub.formats.peft_names import SUFFIXES, Part, split_name

_FACTORS: tuple[tuple[Part, Part], ...] = (("A", "B"), ("embedding_A", "embedding_B"))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRAModule:
    """One adapted module with the update ``s * B @ A``.

    Attributes:
        path: of the module in the model.
        a: name of A's tensor [rank, inputs].
        b: name of B's tensor [outputs, rank].
        bias: name of B's bias, None without one.
        magnitude: name of DoRA's magnitudes [outputs], None without DoRA.
        embedding: whether the weight is [vocabulary, width], so that its update is the transpose.
        scale: the factor ``s``.
        inputs: columns of A.
        outputs: rows of B.
    """

    path: str
    a: str
    b: str
    bias: str | None
    magnitude: str | None
    embedding: bool
    rank: int
    scale: float
    inputs: int
    outputs: int


class LoRATensors(NamedTuple):
    """Modules by path, names of tensors that are not LoRA's, and problems of factors."""

    modules: dict[str, LoRAModule]
    others: tuple[str, ...]
    problems: tuple[errors.Problem, ...]


def find_modules(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> LoRATensors:
    """Sort tensors, given by name and logical shape, into the modules of a config.

    A module that the config leaves out is a problem, because PEFT would ignore its tensors.
    """
    parts: dict[str, dict[Part, str]] = {}
    others: list[str] = []
    problems: list[errors.Problem] = []
    for name in shapes:
        path, part = split_name(name)
        if part is None:
            others.append(name)
        elif part in parts.setdefault(path, {}):
            problems.append(errors.Problem(where=name, what="is the second tensor of its kind in one module"))
        else:
            parts[path][part] = name
    modules: dict[str, LoRAModule] = {}
    for path, (rank, scale) in peft_config.ranks_and_scales(config, parts).items():
        found = _make_module(path, parts[path], shapes, rank, scale)
        if isinstance(found, errors.Problem):
            problems.append(found)
        else:
            modules[path] = found
    problems += [describe_left_out(path, field) for path, field in peft_config.find_left_out(config, modules).items()]
    return LoRATensors(modules, tuple(others), tuple(problems))


def describe_left_out(path: str, field: str) -> errors.Problem:
    """Return the problem of a module that has tensors, but is left out by a field of the config."""
    what = f"has tensors, but {field} in the config leaves it out, so that no reader would load them"
    return errors.Problem(where=path, what=what, fix=f"correct {field}, or save the adapter without these tensors")


def _make_module(
    path: str, names: Mapping[Part, str], shapes: Mapping[str, tuple[int, ...]], rank: int, scale: float
) -> LoRAModule | errors.Problem:
    kinds = [pair for pair in _FACTORS if not names.keys().isdisjoint(pair)]
    if len(kinds) != 1:
        return errors.Problem(where=path, what="does not have A and B of one kind")
    ((a, b),) = kinds
    for part in (a, b):
        if part not in names:
            return errors.Problem(where=path, what=f"has no {SUFFIXES[part][1:]}")
    shape_a, shape_b = shapes[names[a]], shapes[names[b]]
    if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != shape_b[1]:
        what = f"A {list(shape_a)} and B {list(shape_b)} are not [rank, inputs] and [outputs, rank]"
        return errors.Problem(where=path, what=what)
    if shape_a[0] != rank:
        return errors.Problem(where=path, what=f"has rank {shape_a[0]}, but the config says {rank}")
    return LoRAModule(
        path=path,
        a=names[a],
        b=names[b],
        bias=names.get("bias"),
        magnitude=names.get("magnitude"),
        embedding=a == "embedding_A",
        rank=rank,
        scale=scale,
        inputs=shape_a[1],
        outputs=shape_b[0],
    )
