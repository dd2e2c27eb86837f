"""Parents of a composition, checked, and read from PEFT adapter folders."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finch_hub import errors
from finch_hub.engine.composition.factors import Factors
from finch_hub.formats import adapter_folder, peft_config
from finch_hub.specs.examples import Example


@dataclass(frozen=True, kw_only=True)
class ParentInput:
    """An adapter to compose, before its files are read.

    Attributes:
        name: name in reports and errors.
        folder: PEFT folder.
        weight: weight before the scale.
        validation: examples of the parent's domain that it was not trained on; can be empty.
        system: system prompt that it was trained with.
        base_fingerprint: fingerprint of the base that it was trained on; None if unknown.
    """

    name: str
    folder: Path
    weight: float = 1.0
    validation: Sequence[Example] = ()
    system: str | None = None
    base_fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class ParentAdapter:
    """Updates of one parent, with every scale folded in.

    Attributes:
        name: name in reports and errors.
        digest: SHA-256 of the updates; seeds the random strategies.
        config: JSON of its ``adapter_config.json``.
        factors: update of each module by module path, float32.
    """

    name: str
    digest: str
    config: Mapping[str, Any]
    factors: Mapping[str, Factors]

    @classmethod
    def of(cls, name: str, factors: Mapping[str, Factors], config: Mapping[str, Any] | None = None) -> ParentAdapter:
        """Make a parent of updates that are already scaled."""
        digest = hashlib.sha256()
        for path in sorted(factors):
            digest.update(path.encode() + b"\0")
            for matrix in (factors[path].B, factors[path].A):
                digest.update(matrix.detach().to(torch.float32).contiguous().numpy().tobytes())
        return cls(name=name, digest=digest.hexdigest(), config=dict(config or {}), factors=factors)

    @property
    def rank(self) -> int:
        """Largest rank over the modules."""
        return max((f.rank for f in self.factors.values()), default=0)


def check_parents(parents: Sequence[ParentInput]) -> None:
    """Refuse invalid weights, duplicate names and parents of different bases.

    Raises:
        InvalidSpec: weights or names are invalid; it names all of them.
        Incompatible: the parents have different bases; it names the bases.
    """
    problems = [
        errors.Problem(where=f"weight of {p.name}", what=f"{p.weight} is not a finite number")
        for p in parents
        if not math.isfinite(p.weight)
    ]
    names = [parent.name for parent in parents]
    problems += [
        errors.Problem(where="parents", what=f"{name} is given twice", fix="give it once, with a larger weight")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if all(parent.weight == 0 for parent in parents):
        what = "all weights are zero" if parents else "there are no parents"
        problems.append(errors.Problem(where="parents", what=what))
    if problems:
        raise errors.InvalidSpec(problems, subject="composition")
    if len({parent.base_fingerprint for parent in parents if parent.base_fingerprint}) > 1:
        problems = [
            errors.Problem(where=p.name, what=f"was trained on the base {(p.base_fingerprint or 'unknown')[:12]}")
            for p in parents
        ]
        raise errors.Incompatible(problems, subject="the adapters have different bases")


def read_parents(parents: Sequence[ParentInput]) -> list[ParentAdapter]:
    """Read all parents.

    Raises:
        Incompatible: parents have parts that cannot be composed; it names all of them.
        NotFound: a folder or a file in it is missing.
    """
    adapters: list[ParentAdapter] = []
    problems: list[errors.Problem] = []
    for parent in parents:
        try:
            adapters.append(read_parent(parent.folder, parent.name))
        except errors.Incompatible as error:
            problems += problems_of_parent(parent.name, error)
    if problems:
        raise errors.Incompatible(problems, subject="cannot compose these adapters")
    return adapters


def read_parent(folder: Path, name: str) -> ParentAdapter:
    """Read a PEFT folder and fold its scales into B.

    The folder can be quantized. The scales are alpha, rsLoRA, and the rank and alpha patterns.

    Raises:
        Incompatible: the adapter holds NaN, infinity or parts that are not low-rank updates; it names all of them.
        NotFound: the folder or a file in it is missing.
    """
    with adapter_folder.StoredAdapter(folder) as stored:
        if problems := _find_structural_problems(stored):
            raise errors.Incompatible(problems, subject=name)
        factors: dict[str, Factors] = {}
        for path, module in stored.modules.items():
            a, b = stored.factors(path)
            factors[path] = Factors(B=torch.tensor(b) * module.scale, A=torch.tensor(a))
        return ParentAdapter.of(name, factors, stored.config)


def problems_of_parent(name: str, error: errors.Incompatible) -> list[errors.Problem]:
    """Return the problems of an error, with the parent's name before each place."""
    return [errors.Problem(where=f"{name} {p.where}".strip(), what=p.what, fix=p.fix) for p in error.problems]


def mix_seed(seed: int, adapters: Sequence[ParentAdapter]) -> int:
    """Mix a seed with the parents' digests, independent of their order."""
    text = ":".join([str(seed), *sorted(adapter.digest for adapter in adapters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _find_structural_problems(stored: adapter_folder.StoredAdapter) -> tuple[errors.Problem, ...]:
    """Name the parts that are not low-rank updates of linear modules, because a sum would drop them."""
    places = {field: adapter_folder.shorten(names, 3) for field, names in stored.beyond_low_rank().items()}
    return peft_config.beyond_low_rank(stored.config, places)
