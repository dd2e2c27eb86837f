"""Modules and parameters of a base as they are in memory, against which adapters are held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseLayout:
    """Modules and parameters of a base.

    Attributes:
        name: name of the base in errors.
        linear: shape (out, in) of every linear module by path, the language-model head included.
        transposed: paths of the linear modules whose weight is [in, out] (Conv1D).
        embeddings: shape (rows, width) of every embedding by path.
        parameters: shape of every parameter by its name in the state dict.
        fused: parameters that hold the matrices of several experts, and are no modules.
        head: path of the language-model head; None if the model has none.
        model_type: name of the architecture in transformers.
        folder: with the files of the base, to compare copies of its weights; None compares nothing.
    """

    name: str
    linear: Mapping[str, tuple[int, int]]
    transposed: frozenset[str] = frozenset()
    embeddings: Mapping[str, tuple[int, int]]
    parameters: Mapping[str, tuple[int, ...]]
    fused: tuple[str, ...] = ()
    head: str | None = None
    model_type: str = ""
    folder: Path | None = None

    @property
    def inner_linear(self) -> dict[str, tuple[int, int]]:
        """Shape (out, in) of every linear module except the language-model head."""
        return {path: shape for path, shape in self.linear.items() if path != self.head}

    def to_json(self) -> dict[str, Any]:
        """Return the layout as JSON values, without its folder."""
        return asdict(self) | {"transposed": sorted(self.transposed), "folder": None}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the layout of these JSON values."""
        shapes = ("linear", "embeddings", "parameters")
        tuples = {key: {name: tuple(shape) for name, shape in values[key].items()} for key in shapes}
        return cls(
            **{**values, **tuples, "transposed": frozenset(values["transposed"]), "fused": tuple(values["fused"])}
        )
