"""Backups: the record of a backup folder, and the reports of taking and restoring one."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import pydantic

from finch_hub.specs.value import Digest, NonNegativeInt, Value

FORMAT = 1
"""Format of backup folders that this version writes, and the newest that it reads."""


class Backup(Value):
    """A backup, as the `finch.json` of its folder describes it.

    Attributes:
        format: number that grows with each change that earlier versions cannot read.
        finch_hub: version of Finch Hub that took the backup.
        revision: schema revision of the registry file.
        deployment: id of the deployment that the backup was taken of.
        taken_at: time of the registry's state, by the database's clock.
        rows: number of rows by table.
        artifacts: number of files in the artifact store of the backup.
        bytes: size of these files.
        registry: SHA-256 of the registry file.
        missing: digests of artifacts that the registry refers to, and that the store lacked or had damaged.
        damaged: values in the registry that could not be read, and what the backup has instead.
    """

    made: Literal["backup"] = "backup"
    format: NonNegativeInt
    finch_hub: str
    revision: str = pydantic.Field(pattern=r"^[0-9a-z]{1,32}$")
    deployment: str
    taken_at: datetime
    rows: dict[str, NonNegativeInt]
    artifacts: NonNegativeInt
    bytes: NonNegativeInt
    registry: Digest
    missing: tuple[Digest, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether the backup has everything that the registry refers to."""
        return not self.missing and not self.damaged


class BackupReport(Value):
    """Report of a backup that was taken. `problems` says what is missing or damaged, and why."""

    folder: str
    backup: Backup
    problems: tuple[str, ...] = ()


class RestoreReport(Value):
    """Report of a backup that was restored.

    Attributes:
        database: the database, without its password.
        artifacts: number of artifact files that were stored.
        requeued: jobs that ran when the backup was taken, and are queued again.
        queued: number of queued jobs, with these.
        absent_bases: names of bases whose files are not on this machine, with the path where they were.
        missing: digests of artifacts that the backup was finished without.
        lost: adapters, sample answers and data sets that these artifacts belong to, in the same order.
    """

    folder: str
    database: str
    backup: Backup
    artifacts: NonNegativeInt
    bytes: NonNegativeInt
    requeued: tuple[str, ...] = ()
    queued: NonNegativeInt = 0
    absent_bases: dict[str, str] = pydantic.Field(default_factory=dict)
    missing: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
