"""${message}."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from finch_hub.registry import types
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}
# True if workers of the revision before may run on: nothing is dropped, renamed or narrowed, and new columns of old tables
# are nullable or have a default in the database.
is_additive: bool = False


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
