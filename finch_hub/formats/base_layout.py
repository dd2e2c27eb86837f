"""Modules and parameters of a base as they are in memory, against which adapters are held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseLayout:
    """Modules and parameters of a base.

    Attributes:
        name: name of the base in errors.
        linear: shape (out, in) of every linear module by path, the language-model head included.
        transposed: paths of the linear modules whose weight is [in, out] (Conv1D).
        embeddings: shape (rows, width) of every embedding by path.
        parameters: shape of every parameter by its name in the state dict.
        folder: with the files of the base, to compare copies of its weights; None compares nothing.
    """

    name: str
    linear: Mapping[str, tuple[int, int]]
    transposed: frozenset[str] = frozenset()
    embeddings: Mapping[str, tuple[int, int]]
    parameters: Mapping[str, tuple[int, ...]]
    folder: Path | None = None
