"""Indexes of the queue that PostgreSQL uses for the one query that they serve, whatever it knows of the queue.

A connection keeps the plans of its statements. Those of a short queue used the smallest of the indexes that hold the
wanted jobs, and so read all of a queue that had become long for each new job.
"""

from collections.abc import Sequence

from finch_hub.registry import index_builds

revision: str = "0015"
down_revision: str | Sequence[str] | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None
is_additive: bool = True

_LINE = ["priority", "queue", "device"]
_OLD = {
    "ix_jobs_ring": (["ring_at"], "state = 'queued'"),
    "ix_jobs_front": ([*_LINE, "turn"], "state = 'queued'"),
    "ix_jobs_own_turns": (["owner", *_LINE, "turn"], "finished_at IS NULL"),
    "ix_jobs_claimed_of_line": ([*_LINE, "turn"], "fence > 0"),
}
_NEW = {
    "ix_jobs_due": (["ring_at"], "state = 'queued' AND ring_at IS NOT NULL"),
    "ix_jobs_front_of_line": ([*_LINE, "turn"], "lower(state) = 'queued'"),
    "ix_jobs_turns_of_owner": (["owner", *_LINE, "turn"], "upper(state) IN ('WAITING', 'QUEUED', 'RUNNING')"),
    "ix_jobs_started_of_line": ([*_LINE, "turn"], "started_at IS NOT NULL"),
}


def upgrade() -> None:
    _replace(_OLD, _NEW)


def downgrade() -> None:
    _replace(_NEW, _OLD)


def _replace(old: dict[str, tuple[list[str], str]], new: dict[str, tuple[list[str], str]]) -> None:
    for name, (columns, where) in new.items():
        index_builds.create_index(name, "jobs", columns, where=where)
    for name in old:
        index_builds.drop_index(name, "jobs")
