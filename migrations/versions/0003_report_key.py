"""The report of a job under one key for all kinds, and a metric in American spelling."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

Document = dict[str, Any]

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
JOBS = sa.table("jobs", sa.column("id", sa.String), sa.column("kind", sa.String), sa.column("result", JSON))
VERSIONS = sa.table(
    "adapter_versions", sa.column("id", sa.Integer), sa.column("kind", sa.String), sa.column("metrics", JSON)
)
BATCH = 1000

OLD_KEYS = {"merge": "merge", "evaluate": "evaluation", "export": "export", "reproduce": "reproduction"}
OLD_METRIC, NEW_METRIC = "loss_unquantised", "loss_unquantized"


def upgrade() -> None:
    for kind, key in OLD_KEYS.items():
        rewrite(JOBS, JOBS.c.result, kind, lambda result, key=key: renamed(result, key, "report"))
    rename_metric(OLD_METRIC, NEW_METRIC)


def downgrade() -> None:
    for kind, key in OLD_KEYS.items():
        rewrite(JOBS, JOBS.c.result, kind, lambda result, key=key: renamed(result, "report", key))
    rename_metric(NEW_METRIC, OLD_METRIC)


def rename_metric(old: str, new: str) -> None:
    def in_result(result: Document) -> Document:
        return {**result, "metrics": renamed(result["metrics"], old, new)} if result.get("metrics") else result

    rewrite(JOBS, JOBS.c.result, "quantize", in_result)
    rewrite(VERSIONS, VERSIONS.c.metrics, "quantize", lambda metrics: renamed(metrics, old, new))


def renamed(document: Document, old: str, new: str) -> Document:
    return {new if key == old else key: value for key, value in document.items()}


def rewrite(
    table: sa.TableClause, column: sa.ColumnClause[Any], kind: str, change: Callable[[Document], Document]
) -> None:
    """Change a document of every row of a kind. In Python, since SQLite's functions refuse the NaN of old metrics."""
    connection = op.get_bind()
    for rows in batches(connection, table, column, kind):
        for row in rows:
            if (document := change(row.document)) != row.document:
                connection.execute(sa.update(table).where(table.c.id == row.id).values({column.name: document}))


def batches(
    connection: sa.Connection, table: sa.TableClause, column: sa.ColumnClause[Any], kind: str
) -> Iterator[Sequence[sa.Row[Any]]]:
    query = sa.select(table.c.id, column.label("document")).where(table.c.kind == kind, column.is_not(None))
    query = query.order_by(table.c.id).limit(BATCH)
    rows = connection.execute(query).all()
    while rows:
        yield rows
        rows = connection.execute(query.where(table.c.id > rows[-1].id)).all()
