"""Jobs that some version cannot read, tokens of claims, and the data sets that jobs need."""

import collections
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from finch_hub.registry import index_builds
from finch_hub.registry.types import Json, from_json

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JOBS = sa.table(
    "jobs",
    *(
        sa.column(name, sa.String)
        for name in ("id", "kind", "queue", "device", "labels", "needs", "spec", "finished_at")
    ),
    *(sa.column(name, sa.BigInteger) for name in ("number", "memory_bytes")),
)
DATA = sa.table("job_datasets", sa.column("job_id", sa.String), sa.column("digest", sa.String))
DATASET_FIELDS = ("train", "validation", "dataset")  # of specifications
SET_ASIDE = "set_aside IS NOT NULL"
QUEUED = "state = 'queued'"
FINISHED = "finished_at IS NOT NULL"
BATCH = 1000


def upgrade() -> None:
    # A build of an index that was interrupted begins here again.
    is_repeatable = op.get_bind().dialect.name == "postgresql" or None
    op.add_column("jobs", sa.Column("set_aside", Json, nullable=True), if_not_exists=is_repeatable)
    op.add_column("jobs", sa.Column("needs", sa.String(length=32), nullable=True), if_not_exists=is_repeatable)
    op.add_column("jobs", sa.Column("claim_token", sa.String(length=32), nullable=True), if_not_exists=is_repeatable)
    op.add_column("workers", sa.Column("kinds", Json, nullable=True), if_not_exists=is_repeatable)
    op.create_table(
        "job_datasets",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_datasets_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "digest", name=op.f("pk_job_datasets")),
        if_not_exists=is_repeatable,
    )
    op.create_index(op.f("ix_job_datasets_digest"), "job_datasets", ["digest"], if_not_exists=is_repeatable)
    # The build of this index commits, so that the lock of the new columns ends before the rows are read.
    index_builds.create_index("ix_jobs_unfinished", "jobs", ["number"], where="finished_at IS NULL")
    describe_unfinished_jobs()
    index_builds.create_index("ix_jobs_set_aside", "jobs", ["number"], where=SET_ASIDE)
    index_builds.create_index("ix_jobs_needs", "jobs", ["needs", sa.text("priority DESC"), "number"], where=QUEUED)
    index_builds.create_index("ix_jobs_waiting", "jobs", ["number"], where="state = 'waiting'")
    index_builds.drop_index("ix_jobs_finished", "jobs")
    index_builds.create_index("ix_jobs_finished", "jobs", ["finished_at", "number"], where=FINISHED)


def describe_unfinished_jobs() -> None:
    """Record the data sets and the needs of jobs that have not ended, as later submissions do.

    A queue may have a million jobs. So this reads and locks some at a time.
    """
    connection, last = op.get_bind(), 0
    texts = (sa.cast(column, sa.Text).label(column.name) for column in (JOBS.c.labels, JOBS.c.spec))
    next_jobs = (
        sa.select(JOBS.c.number, JOBS.c.id, JOBS.c.kind, JOBS.c.queue, JOBS.c.device, JOBS.c.memory_bytes, *texts)
        .where(JOBS.c.finished_at.is_(None), JOBS.c.number > sa.bindparam("last"))
        .order_by(JOBS.c.number)
        .limit(BATCH)
        .with_for_update()
    )
    while rows := connection.execute(next_jobs, {"last": last}).all():
        last = rows[-1].number
        connection.execute(sa.delete(DATA).where(DATA.c.job_id.in_([row.id for row in rows])))
        if data := [{"job_id": row.id, "digest": digest} for row in rows for digest in find_digests(row.spec)]:
            connection.execute(sa.insert(DATA), data)
        numbers = collections.defaultdict(list)
        for row in rows:
            numbers[hash_needs(row)].append(row.number)
        for needs, of in numbers.items():
            connection.execute(sa.update(JOBS).where(JOBS.c.number.in_(of)).values(needs=needs))
        if connection.dialect.name == "postgresql":
            with op.get_context().autocommit_block():  # commits, and so ends the locks
                pass


def find_digests(text: str) -> list[str]:
    """Return the digests of the data sets that a specification names."""
    spec = from_json(text)
    found = [spec.get(field) for field in DATASET_FIELDS] if isinstance(spec, dict) else []
    return sorted({digest for digest in found if isinstance(digest, str) and len(digest) == 64})


def hash_needs(row: sa.Row[Any]) -> str:
    """Return the hash of what decides which slots fit a job."""
    memory = row.memory_bytes
    step = int(4 * math.log2(memory)) if isinstance(memory, int) and memory > 0 else -1
    text = json.dumps([row.kind, row.queue, row.device, step, from_json(row.labels)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def downgrade() -> None:
    for name in ("ix_jobs_needs", "ix_jobs_waiting", "ix_jobs_unfinished", "ix_jobs_finished", "ix_jobs_set_aside"):
        index_builds.drop_index(name, "jobs")
    index_builds.create_index("ix_jobs_finished", "jobs", ["finished_at"], where=FINISHED)
    op.drop_table("job_datasets")
    op.drop_column("workers", "kinds")
    op.drop_column("jobs", "claim_token")
    op.drop_column("jobs", "needs")
    op.drop_column("jobs", "set_aside")
