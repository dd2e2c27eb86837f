"""Jobs that some version cannot read, tokens of claims, and the data sets that jobs need."""

import hashlib
import json
import math
from collections.abc import Sequence

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
    sa.column("memory_bytes", sa.BigInteger),
)
DATA = sa.table("job_datasets", sa.column("job_id", sa.String), sa.column("digest", sa.String))
DATASET_FIELDS = ("train", "validation", "dataset")  # of specifications
SET_ASIDE = "set_aside IS NOT NULL"
QUEUED = "state = 'queued'"
FINISHED = "finished_at IS NOT NULL"


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
    fill_datasets()
    fill_needs()
    index_builds.create_index("ix_jobs_set_aside", "jobs", ["number"], where=SET_ASIDE)
    index_builds.create_index("ix_jobs_needs", "jobs", ["needs", sa.text("priority DESC"), "number"], where=QUEUED)
    index_builds.create_index("ix_jobs_unfinished", "jobs", ["number"], where="finished_at IS NULL")
    index_builds.create_index("ix_jobs_waiting", "jobs", ["number"], where="state = 'waiting'")
    index_builds.drop_index("ix_jobs_finished", "jobs")
    index_builds.create_index("ix_jobs_finished", "jobs", ["finished_at", "number"], where=FINISHED)


def fill_datasets() -> None:
    """Record the data sets of jobs that have not ended."""
    connection = op.get_bind()
    connection.execute(sa.delete(DATA))
    unfinished = sa.select(JOBS.c.id, sa.cast(JOBS.c.spec, sa.Text)).where(JOBS.c.finished_at.is_(None))
    rows = []
    for job_id, text in connection.execute(unfinished):
        spec = from_json(text)
        found = [spec.get(field) for field in DATASET_FIELDS] if isinstance(spec, dict) else []
        digests = {digest for digest in found if isinstance(digest, str) and len(digest) == 64}
        rows += [{"job_id": job_id, "digest": digest} for digest in sorted(digests)]
    if rows:
        connection.execute(sa.insert(DATA), rows)


def fill_needs() -> None:
    """Record the needs of jobs that have not ended, as later submissions do."""
    connection = op.get_bind()
    labels = sa.cast(JOBS.c.labels, sa.Text).label("labels")
    columns = (JOBS.c.id, JOBS.c.kind, JOBS.c.queue, JOBS.c.device, JOBS.c.memory_bytes, labels)
    rows = connection.execute(sa.select(*columns).where(JOBS.c.finished_at.is_(None))).all()
    for row in rows:
        memory = row.memory_bytes
        step = int(4 * math.log2(memory)) if isinstance(memory, int) and memory > 0 else -1
        text = json.dumps([row.kind, row.queue, row.device, step, from_json(row.labels)])
        needs = hashlib.sha256(text.encode()).hexdigest()[:32]
        connection.execute(sa.update(JOBS).where(JOBS.c.id == row.id).values(needs=needs))


def downgrade() -> None:
    for name in ("ix_jobs_needs", "ix_jobs_waiting", "ix_jobs_unfinished", "ix_jobs_finished", "ix_jobs_set_aside"):
        index_builds.drop_index(name, "jobs")
    index_builds.create_index("ix_jobs_finished", "jobs", ["finished_at"], where=FINISHED)
    op.drop_table("job_datasets")
    op.drop_column("workers", "kinds")
    op.drop_column("jobs", "claim_token")
    op.drop_column("jobs", "needs")
    op.drop_column("jobs", "set_aside")
