"""Bundles: files that carry versions between hubs, and the reports of making one and of taking one in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import pydantic

from finch_hub.specs.bases import MAX_ARCHITECTURE, MAX_ID, MAX_NAME, MAX_REVISION, is_hub_id
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.licenses import MAX_LINK, LicenseName
from finch_hub.specs.value import MAX_INTEGER, Digest, JsonObject, NonNegativeInt, Value

FORMAT = 2
"""The newest format of bundles that this version reads. A bundle without sample answers has format 1."""

MAX_NUMBER = 10**7
"""Largest number of a version in a bundle. The next version of an adapter has a greater one than all before it."""

MAX_FORMER_NAMES = 100
"""Largest number of former names of an adapter in a bundle."""

MAX_ALL_FORMER_NAMES = 1000
"""Largest number of former names in a bundle. Each takes a lock of the database of the other hub."""

_Text = Annotated[str, pydantic.StringConstraints(max_length=2**20)]
_WITHOUT_NUL = r"^[^\x00]*$"  # PostgreSQL stores none; longer texts lose it
_Owner = Annotated[str, pydantic.StringConstraints(max_length=96, pattern=_WITHOUT_NUL)]
_Reference = Annotated[str, pydantic.StringConstraints(max_length=112)]
_Fingerprint = Annotated[str, pydantic.StringConstraints(pattern=r"^([0-9]{1,3}:)?[0-9a-f]{60,64}$", max_length=64)]
_Seed = Annotated[int, pydantic.Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
_Number = Annotated[int, pydantic.Field(ge=1, le=MAX_NUMBER)]
_State = Literal["ready", "quarantined", "below_retention", "unchecked"]


def _check_moment(moment: datetime) -> datetime:
    """Return a time in UTC with milliseconds, as both databases store it."""
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is too early or too late") from None
    if not 2000 <= moment.year < 9999:
        raise ValueError("is not between the years 2000 and 9998")
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


_Moment = Annotated[pydantic.AwareDatetime, pydantic.AfterValidator(_check_moment)]


class BundledEvaluation(Value):
    """Metrics of a version on a data set."""

    dataset: Digest
    evaluator: str = pydantic.Field(min_length=1, max_length=96, pattern=_WITHOUT_NUL)
    metrics: JsonObject
    created_at: _Moment


class BundledBase(Value):
    """A base of versions, without its files and its path."""

    fingerprint: _Fingerprint
    name: str = pydantic.Field(max_length=MAX_NAME, pattern=r"^[^/\x00]+$")
    revision: str | None = pydantic.Field(default=None, max_length=MAX_REVISION, pattern=_WITHOUT_NUL)
    public_id: str | None = pydantic.Field(default=None, max_length=MAX_ID)
    architecture: str = pydantic.Field(max_length=MAX_ARCHITECTURE, pattern=_WITHOUT_NUL)
    parameters: NonNegativeInt
    license: LicenseName | None = None
    license_link: str | None = pydantic.Field(default=None, max_length=MAX_LINK, pattern=_WITHOUT_NUL)

    @property
    def source(self) -> str:
        """Source of the base in a hub that has no files of it: neither a path nor a repository id."""
        return f"bundle:{self.fingerprint}"

    @property
    def columns(self) -> JsonObject:
        """What its row has, without its place."""
        return self.model_dump(exclude={"evaluations"})

    @pydantic.field_validator("public_id")
    @classmethod
    def _check_id(cls, value: str | None) -> str | None:
        if value is not None and not is_hub_id(value):
            raise ValueError("is not a repository id")
        return value


class BundledAdapter(Value):
    """An adapter, and what it is for.

    Attributes:
        former_names: names that it had before, and that still stand for it. Earlier hubs pass over them.
    """

    name: str
    description: str = ""
    former_names: tuple[str, ...] = ()


class BundledFile(Value):
    """A file of a version."""

    digest: Digest
    size: NonNegativeInt


class BundledParent(Value):
    """A parent of a version, which is in the bundle too."""

    reference: _Reference
    weight: float


class Origin(Value):
    """The hub that made a version, with its reference and state there, and the license of its training data."""

    hub: str = pydantic.Field(pattern=r"^[0-9a-f]{1,32}$")
    reference: _Reference
    state: _State
    data_license: LicenseName | None = None


class BundledVersion(Value):
    """A version with its lineage.

    Attributes:
        files: its files by name; None for an ancestor whose files are not in the bundle.
        aliases: names of aliases that point at it.
        card: its card if a user edited it, otherwise empty: every hub writes it anew.
        card_edited_at: when a user edited its card; None if the card is written from the rest.
        evidence: what was measured when it was made.
        samples: its sample answers, if they were asked for. They quote rows.
        created_at: when it was made. With the identity, it tells the version from all others, in every hub.
    """

    name: str
    number: _Number
    identity: Digest
    base: _Fingerprint
    kind: Literal["train", "compose", "import", "quantize"]
    state: _State
    origin: Origin
    files: dict[str, BundledFile] | None = None
    spec: JsonObject
    metrics: JsonObject
    parents: tuple[BundledParent, ...] = ()
    train_digest: Digest | None = None
    validation_digest: Digest | None = None
    seed: _Seed | None = None
    versions: dict[str, str]
    environment: JsonObject
    card: _Text = ""
    card_edited_at: _Moment | None = None
    notes: _Text = ""
    owner: _Owner = ""
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    evaluations: tuple[BundledEvaluation, ...] = ()
    evidence: Evidence | None = None
    samples: BundledFile | None = None
    created_at: _Moment

    @property
    def reference(self) -> str:
        """Reference of the version in the hub that made the bundle."""
        return f"{self.name}/{self.number}"


class Manifest(Value):
    """Everything in a bundle but the bytes of the files."""

    made: Literal["bundle"] = "bundle"
    format: NonNegativeInt
    bases: tuple[BundledBase, ...]
    adapters: tuple[BundledAdapter, ...]
    versions: tuple[BundledVersion, ...]


class BundleReport(Value):
    """Report of a bundle that was made.

    Attributes:
        versions: references of the versions with files.
        without_files: references of ancestors that are in the lineage only.
        bytes: size of the file.
    """

    file: str
    versions: tuple[str, ...]
    without_files: tuple[str, ...] = ()
    bytes: NonNegativeInt


Outcome = Literal["added", "known", "completed", "in lineage"]


class UnbundledVersion(Value):
    """A version of a bundle, and where it is in this hub.

    Attributes:
        bundled: its reference in the bundle.
        reference: its reference in this hub.
        outcome: "added"; "known" if this hub had it; "completed" if this hub had it without its files; "in lineage" if
            it was added without files.
        state: its state in this hub; None for a deleted one.
        is_purged: whether it was purged here, so that the bundle does not bring it back.
    """

    bundled: str
    reference: str
    outcome: Outcome
    state: str | None = None
    is_purged: bool = False


class UnbundleReport(Value):
    """Report of a bundle that was taken in.

    Attributes:
        kept: what the bundle has otherwise than this hub, which kept its own.
        aliases: aliases that were set, as `name@alias`.
        former_names: names of adapters here, by the former names that stand for them now.
        meanings: sentences that say which names of adapters mean another version now.
        absent_bases: names of the bases whose files are not on this machine.
        is_dry_run: whether nothing was changed.
    """

    file: str
    versions: tuple[UnbundledVersion, ...]
    kept: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    former_names: dict[str, str] = pydantic.Field(default_factory=dict)
    meanings: tuple[str, ...] = ()
    absent_bases: tuple[str, ...] = ()
    is_dry_run: bool = False

    @property
    def mapped(self) -> tuple[UnbundledVersion, ...]:
        """The versions that have another reference here."""
        return tuple(version for version in self.versions if version.reference != version.bundled)


def to_milliseconds(moment: datetime) -> datetime:
    """Return a time as every database stores it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
