"""Inspections: what is damaged in a hub, and what nobody refers to."""

from __future__ import annotations

from typing import Literal

from finch_hub import errors
from finch_hub.specs.value import Value


class Finding(Value):
    """Something that an inspection found.

    Attributes:
        kind: `damage` harms a use of the hub; an `orphan` takes space only.
        where: the version, data set, base or row.
        what: what is wrong.
        fix: what mends it.
    """

    kind: Literal["damage", "orphan"] = "damage"
    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.fix})"


class InspectionReport(Value):
    """What an inspection read, and what it found.

    Attributes:
        trees: number of adapter folders whose files were read.
        files: number of stored files that were read and held against their hashes.
        bytes: size of these files.
        rows: number of rows of the registry that were read, 0 where the database itself checks them.
        findings: damage first, then orphans.
    """

    trees: int = 0
    files: int = 0
    bytes: int = 0
    rows: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def damage(self) -> tuple[Finding, ...]:
        """The findings that harm a use of the hub."""
        return tuple(finding for finding in self.findings if finding.kind == "damage")

    def raise_damage(self, subject: str) -> None:
        """Raise an error that names all damage, if there is any.

        Raises:
            Damaged: something is damaged.
        """
        if self.damage:
            problems = [errors.Problem(where=found.where, what=found.what, fix=found.fix) for found in self.damage]
            raise errors.Damaged("\n  ".join([f"{subject} is damaged:", *errors.list_problems(problems)]))
