"""Comparisons of adapter versions, and histories of their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from finch_hub.specs.value import Value

Section = Literal["version", "settings", "data", "metrics", "retention", "environment", "libraries"]


_MAX_NAMED = 6  # versions in a command


def explain_other_data(versions: Sequence[str]) -> str:
    """Return the remark on losses of versions with other validation data, with the command that makes others."""
    words = " ".join(f"--adapter {version}" for version in versions[:_MAX_NAMED])
    return f"Losses on other held-out data cannot be compared (run `finch-hub eval DATA {words}` on one data set)."


class ComparedValue(Value):
    """A named value of each compared version, in their order; None for a version that lacks it."""

    section: Section
    name: str
    values: tuple[Any, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all versions have the same value."""
        return all(value == self.values[0] for value in self.values)


class ComparedModule(Value):
    """Updates of a module by the compared versions, in their order.

    An entry is None for a version without the module. The first version is the one that others are compared with, so
    its own entries of the three lower lists are None, and so are those of versions whose module has another shape.

    Attributes:
        module: path in the model; empty for all modules together.
        norms: Frobenius norm of each update ``ΔW = s B A``.
        cosines: cosine of the first version's update and this one's, as vectors, -1 to 1.
        output_overlaps: shared part of the column spaces of B, 0 to 1; see `PairConflict`.
        input_overlaps: the same for the row spaces of A.
    """

    module: str
    norms: tuple[float | None, ...]
    cosines: tuple[float | None, ...]
    output_overlaps: tuple[float | None, ...] = ()
    input_overlaps: tuple[float | None, ...] = ()


class Comparison(Value):
    """A comparison of versions.

    Attributes:
        versions: references of the versions.
        values: values of each section, only those that differ unless all were requested.
        equal: number of values that are equal, and were left out.
        modules: updates by module, if they were requested; the first entry is for all modules together.
        remarks: what could not be compared.
    """

    versions: tuple[str, ...]
    values: tuple[ComparedValue, ...] = ()
    equal: int = 0
    modules: tuple[ComparedModule, ...] = ()
    remarks: tuple[str, ...] = ()


class MetricPoint(Value):
    """A metric of one version of an adapter; None if the version does not have it.

    Attributes:
        held_out: digest of the validation data, if the version was trained with any.
    """

    version: str
    value: Any
    state: str
    held_out: str | None = None
    created_at: datetime
