"""Jobs that some version cannot read, tokens of claims, and the data sets that jobs need."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from finch_hub.registry.types import Json, from_json

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JOBS = sa.table("jobs", sa.column("id", sa.String), sa.column("spec", sa.Text), sa.column("finished_at", sa.Text))
DATA = sa.table("job_datasets", sa.column("job_id", sa.String), sa.column("digest", sa.String))
DATASET_FIELDS = ("train", "validation", "dataset")  # of specifications
SET_ASIDE = "set_aside IS NOT NULL"
FINISHED = "finished_at IS NOT NULL"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("set_aside", Json, nullable=True))
    op.add_column("jobs", sa.Column("claim_token", sa.String(length=32), nullable=True))
    op.add_column("workers", sa.Column("kinds", Json, nullable=True))
    create_partial_index("ix_jobs_set_aside", ["number"], SET_ASIDE)
    op.create_table(
        "job_datasets",
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_datasets_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "digest", name=op.f("pk_job_datasets")),
    )
    op.create_index(op.f("ix_job_datasets_digest"), "job_datasets", ["digest"])
    fill_datasets()
    create_partial_index("ix_jobs_unfinished", ["number"], "finished_at IS NULL")
    create_partial_index("ix_jobs_waiting", ["number"], "state = 'waiting'")
    op.drop_index("ix_jobs_finished", "jobs")
    create_partial_index("ix_jobs_finished", ["finished_at", "number"], FINISHED)


def create_partial_index(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "jobs", columns, sqlite_where=condition, postgresql_where=condition)


def fill_datasets() -> None:
    """Record the data sets of jobs that have not ended."""
    connection = op.get_bind()
    unfinished = sa.select(JOBS.c.id, sa.cast(JOBS.c.spec, sa.Text)).where(JOBS.c.finished_at.is_(None))
    rows = []
    for job_id, text in connection.execute(unfinished):
        spec = from_json(text)
        found = [spec.get(field) for field in DATASET_FIELDS] if isinstance(spec, dict) else []
        digests = {digest for digest in found if isinstance(digest, str) and len(digest) == 64}
        rows += [{"job_id": job_id, "digest": digest} for digest in sorted(digests)]
    if rows:
        connection.execute(sa.insert(DATA), rows)


def downgrade() -> None:
    op.drop_table("job_datasets")
    op.drop_index("ix_jobs_waiting", "jobs")
    op.drop_index("ix_jobs_unfinished", "jobs")
    op.drop_index("ix_jobs_finished", "jobs")
    create_partial_index("ix_jobs_finished", ["finished_at"], FINISHED)
    op.drop_index("ix_jobs_set_aside", "jobs")
    op.drop_column("workers", "kinds")
    op.drop_column("jobs", "claim_token")
    op.drop_column("jobs", "set_aside")
