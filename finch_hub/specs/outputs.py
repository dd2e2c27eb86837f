"""Outputs of jobs: folders that merges and exports write for whoever submitted them."""

from __future__ import annotations

import pydantic

from finch_hub.specs.value import Digest, NonNegativeInt, Value


class OutputPlace(Value):
    """Place where the submitter of a job wants its output.

    Attributes:
        folder: nearest folder above the output that existed when the job was submitted.
        mark: what tells whether a process that sees a folder of that path sees the same one, as the same user.
    """

    folder: str
    mark: str


class StoredOutput(Value):
    """An output in the artifact store, until it is fetched or a week has passed.

    Attributes:
        name: name of the output in the store.
        digest: digest of the tree of its files.
        bytes: size of all files.
        kind: kind in the record of the folder; None if it has no record.
        file: name of the file if the output is a single one.
    """

    name: str = pydantic.Field(pattern=r"^[0-9A-Za-z-]+$")  # a restored backup may have any
    digest: Digest
    bytes: NonNegativeInt
    kind: str | None = None
    file: str | None = None
