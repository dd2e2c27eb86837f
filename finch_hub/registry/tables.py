"""Tables of the registry. Callers get the values of `finch_hub.registry.values` and `finch_hub.specs.jobs`.

Relations are never loaded implicitly (``lazy="raise"``): each query names the relations that it needs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

import sqlalchemy as sa
from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

from finch_hub.registry import values
from finch_hub.registry.types import BigId, Instant, Json, Prose, now
from finch_hub.specs.annotations import MAX_TAG_VALUE
from finch_hub.specs.bases import MAX_ARCHITECTURE, MAX_ID, MAX_NAME, MAX_REVISION
from finch_hub.specs.jobs import JobState
from finch_hub.specs.licenses import MAX_LICENSE, MAX_LINK
from finch_hub.specs.value import JsonObject

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}

Key = Annotated[int, mapped_column(BigId, primary_key=True, autoincrement=True)]
Name = Annotated[str, mapped_column(sa.String(96))]
Digest = Annotated[str, mapped_column(sa.String(64))]
Text = Annotated[str, mapped_column(Prose())]
Count = Annotated[int, mapped_column(sa.BigInteger())]
Document = Annotated[JsonObject, mapped_column(Json, info={"json": "object"})]
Texts = Annotated[list[str], mapped_column(Json, info={"json": "array"})]
Moment = Annotated[datetime, mapped_column(Instant())]
Created = Annotated[datetime, mapped_column(Instant(), default=now())]
JobKey = Annotated[str, mapped_column(sa.String(32))]
State = Annotated[
    JobState,
    mapped_column(
        sa.Enum(
            JobState,
            name="state",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda states: [state.value for state in states],
        )
    ),
]


class Table(DeclarativeBase):
    """Base of all tables."""

    __table__: ClassVar[sa.Table]
    metadata = sa.MetaData(naming_convention=NAMING)


def _partial(name: str, *columns: str | sa.TextClause, where: str) -> Index:
    return Index(name, *columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


_BY_TURN = (sa.text("priority DESC"), "turn", "owner", "number")  # the order of claims
_LINE = ("priority", "queue", "device")  # see `turns`


class Job(Table):
    """A job. Its row also says when a worker sends a wake-up message for it (`ring_at`)."""

    __tablename__ = "jobs"

    number: Mapped[Key]  # order of submission, which clocks cannot tell
    id: Mapped[JobKey] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(sa.String(16))
    state: Mapped[State]
    spec: Mapped[Document]
    queue: Mapped[Name]
    device: Mapped[str] = mapped_column(sa.String(8))
    memory_bytes: Mapped[Count]
    is_memory_estimated: Mapped[bool] = mapped_column(server_default=sa.true())  # unknown for jobs before 0024
    labels: Mapped[Texts]
    needs: Mapped[str | None] = mapped_column(sa.String(32))  # hash of what decides which slots fit
    time_limit: Mapped[float | None]  # seconds of one attempt
    gang: Mapped[str | None] = mapped_column(sa.String(600))  # equal for jobs that can be trained in one step
    base_key: Mapped[str | None] = mapped_column(sa.String(512))  # of the base, for workers that have it loaded
    priority: Mapped[int]
    owner: Mapped[Name] = mapped_column(server_default="")  # whose jobs take turns with those of others
    turn: Mapped[Count] = mapped_column(server_default="0")  # since the job was queued; see `turns`
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(200), unique=True)
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    last_seq: Mapped[Count] = mapped_column(default=0)  # number of the last event
    worker: Mapped[str | None] = mapped_column(sa.String(96))
    created_at: Mapped[Created]
    not_before: Mapped[Moment | None]  # wait before the next attempt
    ring_at: Mapped[Moment | None]  # time of the wake-up message; null once it was sent, or if the submitter sends it
    started_at: Mapped[Moment | None]
    lease_until: Mapped[Moment | None]  # only while running
    claim_token: Mapped[str | None] = mapped_column(sa.String(32))  # random; only while running
    cancel_requested: Mapped[Moment | None]
    finished_at: Mapped[Moment | None]
    reason: Mapped[Text | None]
    result: Mapped[Document | None]
    set_aside: Mapped[Texts | None]  # versions of Finch Hub whose workers cannot read the job

    # Partial indexes make claims and sweeps independent of the number of finished jobs. A query must contain their
    # conditions as literals, or neither database uses them. No index holds the lease, so that a renewal touches none.
    # There is no index of all states: SQLite would use it for the claim, and sort.
    # PostgreSQL plans without statistics at first, and keeps a plan. Of the indexes whose conditions a query implies,
    # it may take the smallest, and read all of it. So the conditions of an index that must be used are like no other's.
    __table_args__ = (
        _partial("ix_jobs_claim_by_turn", *_BY_TURN, where="state = 'queued'"),
        _partial("ix_jobs_needs_by_turn", "needs", *_BY_TURN, where="state = 'queued'"),
        _partial(
            "ix_jobs_owner",
            "owner",
            "state",
            "needs",
            sa.text("priority DESC"),
            "turn",
            "number",
            where="finished_at IS NULL",
        ),
        _partial(
            "ix_jobs_turns_of_owner", "owner", *_LINE, "turn", where="upper(state) IN ('WAITING', 'QUEUED', 'RUNNING')"
        ),
        _partial("ix_jobs_front_of_line", *_LINE, "turn", where="lower(state) = 'queued'"),
        _partial("ix_jobs_claimed", "priority", "turn", where="fence > 0"),
        _partial("ix_jobs_started_of_line", *_LINE, "turn", where="started_at IS NOT NULL"),
        _partial("ix_jobs_gang", "gang", "number", where="state = 'queued' AND gang IS NOT NULL"),
        _partial("ix_jobs_due", "ring_at", where="state = 'queued' AND ring_at IS NOT NULL"),
        _partial("ix_jobs_running", "number", where="state = 'running'"),
        _partial("ix_jobs_ended", "state", "number", where="finished_at IS NOT NULL"),
        _partial("ix_jobs_unfinished", "number", where="finished_at IS NULL"),
        _partial("ix_jobs_waiting", "number", where="state = 'waiting'"),
        _partial("ix_jobs_finished", "finished_at", "number", where="finished_at IS NOT NULL"),
        _partial("ix_jobs_set_aside", "number", where="set_aside IS NOT NULL"),
        _partial("ix_jobs_retry_of", "retry_of", where="retry_of IS NOT NULL"),
        _partial("ix_jobs_of_owner", "owner", "number", where="number > 0"),
        Index("ix_jobs_id_bytes", sa.text('id COLLATE "C"')).ddl_if(dialect="postgresql"),
    )


class JobDependency(Table):
    """`job_id` waits for `depends_on`."""

    __tablename__ = "job_dependencies"

    job_id: Mapped[JobKey] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    depends_on: Mapped[JobKey] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, index=True)
    position: Mapped[int]


class Settlement(Table):
    """A job whose end, or what it means for its dependents, is still to be carried out; see `settlements`."""

    __tablename__ = "settlements"

    job_id: Mapped[JobKey] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    root_id: Mapped[JobKey]  # the job whose own end caused that of this job
    settled: Mapped[Count] = mapped_column(default=0)  # number of the last dependent that was looked at
    due_at: Mapped[Created] = mapped_column(index=True)
    trouble: Mapped[Text | None]  # why it could not be carried out


class JobDataset(Table):
    """A stored data set that a job reads. It cannot be purged before the job has ended."""

    __tablename__ = "job_datasets"

    job_id: Mapped[JobKey] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[Digest] = mapped_column(primary_key=True, index=True)
    is_needed: Mapped[bool] = mapped_column(server_default=sa.true())  # false if the job can also do without it


class Attempt(Table):
    """A claim of a job. `outcome` is null while it runs."""

    __tablename__ = "attempts"

    job_id: Mapped[JobKey] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker: Mapped[Name]
    started_at: Mapped[Created]
    ended_at: Mapped[Moment | None]
    outcome: Mapped[str | None] = mapped_column(sa.String(16))
    reason: Mapped[Text | None]
    not_before: Mapped[Moment | None]  # when the worker of this attempt may claim the job again; others may at once


class Event(Table):
    """An event of a job. `seq` has gaps where progress was thinned."""

    __tablename__ = "events"

    job_id: Mapped[JobKey] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(sa.BigInteger(), primary_key=True, autoincrement=False)
    at: Mapped[Created]
    type: Mapped[str] = mapped_column(sa.String(16))
    level: Mapped[str] = mapped_column(sa.String(8))
    message: Mapped[Text]
    data: Mapped[Document]

    # Rows are clustered by job and number, so that following a job reads adjacent pages.
    __table_args__ = ({"sqlite_with_rowid": False},)


class Listener(Table):
    """A listener of a plugin that some worker has, and which worker calls it now."""

    __tablename__ = "listeners"

    name: Mapped[Name] = mapped_column(primary_key=True)
    seen_at: Mapped[Created]  # when a worker had it last
    caller: Mapped[str | None] = mapped_column(sa.String(32))  # random text of the worker that calls it
    called_until: Mapped[Moment | None]  # until then, no other worker calls it
    skipped: Mapped[Count] = mapped_column(default=0)  # changes that it did not hear, because all calls failed
    trouble: Mapped[Text | None]  # why the last call failed; null after one that did not


class Announcement(Table):
    """A change of a job's state that a listener has not heard. `seq` is that of the event of the new state."""

    __tablename__ = "announcements"

    job_id: Mapped[JobKey] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(sa.BigInteger(), primary_key=True, autoincrement=False)
    listener: Mapped[Name] = mapped_column(ForeignKey("listeners.name", ondelete="CASCADE"), primary_key=True)
    failed_calls: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[Created]  # of the next call

    __table_args__ = (Index("ix_announcements_due", "listener", "due_at", "seq"),)


class Worker(Table):
    """A registered worker, which is alive as long as it sends heartbeats."""

    __tablename__ = "workers"

    id: Mapped[Name] = mapped_column(primary_key=True)
    instance: Mapped[str] = mapped_column(sa.String(32))  # differs between workers of the same name
    hostname: Mapped[str] = mapped_column(sa.String(255))
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(sa.String(64))
    schema: Mapped[str] = mapped_column(sa.String(32))
    slots: Mapped[int]
    devices: Mapped[list[JsonObject]] = mapped_column(Json, info={"json": "array"})
    queues: Mapped[Texts]
    labels: Mapped[Texts]
    kinds: Mapped[Texts | None]  # of jobs that its version knows
    state: Mapped[str] = mapped_column(sa.String(16))
    remark: Mapped[Text | None]  # why it claims no jobs
    started_at: Mapped[Created]
    last_seen: Mapped[Created]


class Base(Table):
    """A base model, identified by its fingerprint."""

    __tablename__ = "bases"

    id: Mapped[Key]
    name: Mapped[str] = mapped_column(sa.String(MAX_NAME), index=True)
    source: Mapped[Text]
    revision: Mapped[str | None] = mapped_column(sa.String(MAX_REVISION))
    public_id: Mapped[str | None] = mapped_column(sa.String(MAX_ID))  # on the Hugging Face Hub, as a user gave it
    fingerprint: Mapped[Digest] = mapped_column(unique=True)
    architecture: Mapped[str] = mapped_column(sa.String(MAX_ARCHITECTURE))
    parameters: Mapped[Count]
    path: Mapped[Text | None]
    license: Mapped[str | None] = mapped_column(sa.String(MAX_LICENSE))
    license_link: Mapped[str | None] = mapped_column(sa.String(MAX_LINK))
    created_at: Mapped[Created]
    removed_at: Mapped[Moment | None]  # since then only the lineage of deleted versions names it


class Dataset(Table):
    """A stored data set. Its text can be purged. Its digest stays."""

    __tablename__ = "datasets"

    id: Mapped[Key]
    name: Mapped[str | None] = mapped_column(sa.String(512), index=True)
    digest: Mapped[Digest] = mapped_column(unique=True)
    format: Mapped[str] = mapped_column(sa.String(96))
    examples: Mapped[Count]
    bytes: Mapped[Count]
    of_jobs: Mapped[bool] = mapped_column(server_default=sa.false())  # only jobs have stored it, no user has added it
    license: Mapped[str | None] = mapped_column(sa.String(MAX_LICENSE))
    created_at: Mapped[Created]
    purged_at: Mapped[Moment | None]


class DatasetSource(Table):
    """A stored data set that another one was made of, such as one half of a split."""

    __tablename__ = "dataset_sources"

    digest: Mapped[Digest] = mapped_column(ForeignKey("datasets.digest", ondelete="CASCADE"), primary_key=True)
    source: Mapped[Digest] = mapped_column(
        ForeignKey("datasets.digest", ondelete="CASCADE"), primary_key=True, index=True
    )


class Adapter(Table):
    """An adapter name, with the counter that numbers its versions."""

    __tablename__ = "adapters"

    id: Mapped[Key]
    name: Mapped[Name] = mapped_column(unique=True)
    description: Mapped[Text] = mapped_column(server_default="")
    versions_made: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]
    deleted_at: Mapped[Moment | None]  # also of the versions that were deleted with it

    versions: Mapped[list[AdapterVersion]] = relationship(back_populates="adapter", lazy="raise")


class FormerName(Table):
    """A name that an adapter had before it was renamed. It still stands for the adapter, and for no other one."""

    __tablename__ = "former_names"

    name: Mapped[Name] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapters.id"), index=True)
    renamed_at: Mapped[Created]


class AdapterVersion(Table):
    """An immutable version of an adapter. Only its card, notes, tags and aliases change."""

    __tablename__ = "adapter_versions"

    id: Mapped[Key]
    adapter_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapters.id"))
    number: Mapped[int]
    digest: Mapped[Digest] = mapped_column(index=True)
    identity: Mapped[Digest] = mapped_column(index=True)
    base_id: Mapped[int] = mapped_column(BigId, ForeignKey("bases.id"), index=True)
    kind: Mapped[values.VersionKind] = mapped_column(sa.String(16))
    state: Mapped[values.VersionState] = mapped_column(sa.String(16))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    spec: Mapped[Document]
    metrics: Mapped[Document]
    train_digest: Mapped[Digest | None]
    validation_digest: Mapped[Digest | None]
    seed: Mapped[Count | None]
    versions: Mapped[Document]
    environment: Mapped[Document]
    card: Mapped[Text]  # the text of a user, otherwise what was written when the version was made, for searches
    card_edited_at: Mapped[Moment | None]
    notes: Mapped[Text] = mapped_column(server_default="")
    owner: Mapped[Name] = mapped_column(server_default="")  # of the job that made it, or who imported it
    preset: Mapped[str | None] = mapped_column(sa.String(96))
    created_at: Mapped[Created]
    updated_at: Mapped[Moment | None]  # when card, notes, tags or aliases changed last; null if they never did
    deleted_at: Mapped[Moment | None]
    purged_at: Mapped[Moment | None]  # since then the row only keeps the number and the place in the lineage
    restored_at: Mapped[Moment | None]  # since then its files are needed again

    adapter: Mapped[Adapter] = relationship(back_populates="versions", lazy="raise")
    base: Mapped[Base] = relationship(lazy="raise")
    aliases: Mapped[list[Alias]] = relationship(back_populates="version", lazy="raise", order_by="Alias.name")
    tags: Mapped[list[Tag]] = relationship(back_populates="version", lazy="raise", order_by="Tag.name")
    parents: Mapped[list[Parent]] = relationship(
        back_populates="version", lazy="raise", order_by="Parent.position", foreign_keys="Parent.version_id"
    )

    __table_args__ = (
        _partial("ix_adapter_versions_train_digest", "train_digest", "id", where="train_digest IS NOT NULL"),
        _partial(
            "ix_adapter_versions_validation_digest", "validation_digest", "id", where="validation_digest IS NOT NULL"
        ),
        sa.UniqueConstraint("adapter_id", "number"),
        sa.CheckConstraint("state IN ('ready', 'quarantined', 'below_retention', 'unchecked')", name="state"),
        _partial("ix_adapter_versions_deleted", "deleted_at", where="deleted_at IS NOT NULL AND purged_at IS NULL"),
        _partial("ix_adapter_versions_restored", "restored_at", where="restored_at IS NOT NULL"),
    )


class Parent(Table):
    """A version that another version was made from."""

    __tablename__ = "lineage"

    version_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapter_versions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapter_versions.id"), index=True)
    weight: Mapped[float]

    version: Mapped[AdapterVersion] = relationship(back_populates="parents", lazy="raise", foreign_keys=[version_id])
    reference: Mapped[str] = column_property(  # of the parent, as users write it
        sa.select(Adapter.name + "/" + sa.cast(AdapterVersion.number, sa.String()))
        .join_from(AdapterVersion, Adapter)
        .where(AdapterVersion.id == parent_id)
        .scalar_subquery()
    )


class Alias(Table):
    """A movable name of an adapter version."""

    __tablename__ = "aliases"

    adapter_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapters.id"), primary_key=True)
    name: Mapped[Name] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapter_versions.id"), index=True)
    moved_at: Mapped[Created]

    version: Mapped[AdapterVersion] = relationship(back_populates="aliases", lazy="raise")


class AliasMove(Table):
    """A change of what an alias points at. The rows of an alias are its history."""

    __tablename__ = "alias_moves"

    id: Mapped[Key]
    adapter_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapters.id"))
    alias: Mapped[Name]
    from_number: Mapped[int | None]  # null if the alias did not exist
    to_number: Mapped[int | None]  # null if it was removed
    at: Mapped[Created]
    who: Mapped[Name]  # empty for what earlier versions did
    why: Mapped[Text | None]

    __table_args__ = (Index("ix_alias_moves_alias", "adapter_id", "alias", "id"),)


class AuditRow(Table):
    """A change of the registry, or one that was refused."""

    __tablename__ = "audit"

    id: Mapped[Key]
    at: Mapped[Created] = mapped_column(index=True)
    who: Mapped[Name]
    action: Mapped[str] = mapped_column(sa.String(32))
    subject: Mapped[Text]  # as users write it
    subject_name: Mapped[Text]  # the same without version and alias
    job_id: Mapped[str | None] = mapped_column(sa.String(32))  # the job that made the change; it may be deleted
    details: Mapped[Document]
    outcome: Mapped[str] = mapped_column(sa.String(16))
    reason: Mapped[Text | None]  # why it was refused

    __table_args__ = (
        Index("ix_audit_who", "who", "id"),
        Index("ix_audit_action", "action", "id"),
        Index("ix_audit_subject", "subject_name", "id"),
    )


class Tag(Table):
    """A label of an adapter version, for searches. Its value may be empty."""

    __tablename__ = "tags"

    version_id: Mapped[int] = mapped_column(BigId, ForeignKey("adapter_versions.id"), primary_key=True)
    name: Mapped[Name] = mapped_column(primary_key=True, index=True)
    value: Mapped[str] = mapped_column(sa.String(MAX_TAG_VALUE), server_default="")

    version: Mapped[AdapterVersion] = relationship(back_populates="tags", lazy="raise")

    __table_args__ = (Index("ix_tags_name_value", "name", "value", "version_id"),)


class Evaluation(Table):
    """Metrics of a version, or of the bare base, on a data set."""

    __tablename__ = "evaluations"

    id: Mapped[Key]
    base_id: Mapped[int] = mapped_column(BigId, ForeignKey("bases.id"), index=True)
    version_id: Mapped[int | None] = mapped_column(BigId, ForeignKey("adapter_versions.id"), index=True)
    dataset_digest: Mapped[Digest] = mapped_column(index=True)
    evaluator: Mapped[Name]
    metrics: Mapped[Document]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[Created]


class Evidence(Table):
    """What was measured when a version was made. It is apart from the version, which lists read whole."""

    __tablename__ = "evidence"

    version_id: Mapped[int] = mapped_column(
        BigId, ForeignKey("adapter_versions.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    document: Mapped[Document]
    samples: Mapped[Digest | None]  # of the stored sample answers, which quote rows
    samples_purged_at: Mapped[Moment | None]

    __table_args__ = (
        _partial("ix_evidence_samples", "samples", where="samples IS NOT NULL"),
        _partial("ix_evidence_sampled_versions", "version_id", where="samples IS NOT NULL"),
    )


class Deployment(Table):
    """This database with its workers and clients. It has one row."""

    __tablename__ = "deployment"

    id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    store_marked_at: Mapped[Moment | None]  # since then, a store without the marker is not this deployment's
    collected_at: Mapped[Moment | None]  # when a worker last began to remove what nobody refers to


class Measurement(Table):
    """What one process measured for all of the deployment; see `measurements`."""

    __tablename__ = "measurements"

    name: Mapped[Name] = mapped_column(primary_key=True)
    due_at: Mapped[Created]  # of the next measurement
    result: Mapped[Document | None]


# Core tables, not entities: other processes change the rows, so that a session must not cache them.
jobs, dependencies, attempts, job_events = (table.__table__ for table in (Job, JobDependency, Attempt, Event))
job_datasets, settlements = JobDataset.__table__, Settlement.__table__
listeners, announcements = Listener.__table__, Announcement.__table__
measurements = Measurement.__table__
