"""Migrations that say that they are additive, so that older workers may run on, keep what older code relies on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from support import registry
from support.services import Databases

from finch_hub.registry import schema_revisions

BASIS = "0010"  # earlier workers do not look at the revision, so that none may outlive these migrations
HEADER = f'''"""The next migration."""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "9000", "{schema_revisions.HEAD}", None, None
is_additive = True
RECREATE = {{"sqlite": "always", "postgresql": "never"}}
def upgrade():
    '''
ADDITIVE = {
    "a table": 'op.create_table("colors", sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False))',
    "a nullable column": 'op.add_column("jobs", sa.Column("color", sa.String(8)))',
    "a column with a default": 'op.add_column("jobs", sa.Column("c", sa.Integer, nullable=False, server_default="0"))',
    "an index": 'op.create_index("ix_new", "jobs", ["worker"])',
    "a looser column": "with op.batch_alter_table('jobs', recreate=RECREATE[op.get_bind().dialect.name]) as batch:"
    " batch.alter_column('priority', nullable=True)",
}
BREAKING = {
    "drops or renames workers": 'op.rename_table("workers", "servers")',
    "drops or renames workers.kinds": 'op.drop_column("workers", "kinds")',
    "drops or renames jobs.reason": "with op.batch_alter_table('jobs', recreate=RECREATE[op.get_bind().dialect.name])"
    " as batch: batch.alter_column('reason', new_column_name='why')",
    "requires a value of workers.zone": "with op.batch_alter_table('workers', recreate=RECREATE[op.get_bind()"
    ".dialect.name]) as batch: batch.add_column(sa.Column('zone', sa.String(8), nullable=False))",
    "requires a value of workers.remark": "with op.batch_alter_table('workers', recreate=RECREATE[op.get_bind()"
    ".dialect.name]) as batch: batch.alter_column('remark', nullable=False)",
    "changes the type of jobs.priority": "with op.batch_alter_table('jobs', recreate=RECREATE[op.get_bind()"
    ".dialect.name]) as batch: batch.alter_column('priority', type_=sa.SmallInteger())",
    "adds a rule to workers": 'op.create_index("ix_new", "workers", ["hostname"], unique=True)',
    "adds a rule to workers ": "with op.batch_alter_table('workers', recreate=RECREATE[op.get_bind().dialect.name])"
    " as batch: batch.create_check_constraint('few', 'slots < 100')",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What statements rely on in a table: its columns with types and defaults, and the rules for values of rows."""

    columns: Mapping[str, Any]
    rules: frozenset[str]


def describe(engine: sa.Engine) -> dict[str, Shape]:
    inspector = sa.inspect(engine)
    shapes = {}
    for table in inspector.get_table_names():
        columns = {column["name"]: column for column in inspector.get_columns(table)}
        rules = [f"unique {item['column_names']}" for item in inspector.get_unique_constraints(table)]
        rules += [f"unique {item['column_names']}" for item in inspector.get_indexes(table) if item["unique"]]
        rules += [f"check {item['sqltext']}" for item in inspector.get_check_constraints(table)]
        rules += [f"reference {item['constrained_columns']}" for item in inspector.get_foreign_keys(table)]
        shapes[table] = Shape(columns=columns, rules=frozenset(rules))
    return shapes


def find_breaks(before: dict[str, Shape], after: dict[str, Shape]) -> list[str]:
    """Return why statements for the first shapes may fail on the second."""
    found = []
    for table, old in before.items():
        if table not in after:
            found.append(f"drops or renames {table}")
            continue
        new = after[table]
        for name, column in old.columns.items():
            if name not in new.columns:
                found.append(f"drops or renames {table}.{name}")
            elif str(column["type"]) != str(new.columns[name]["type"]):
                found.append(f"changes the type of {table}.{name}")
            elif column["default"] != new.columns[name]["default"]:
                found.append(f"changes the default of {table}.{name}")
        for name, column in new.columns.items():
            is_optional = column["nullable"] or column["default"] is not None
            if not is_optional and (name not in old.columns or old.columns[name]["nullable"]):
                found.append(f"requires a value of {table}.{name}")
        names = "|".join(map(re.escape, old.columns))
        if any(re.search(rf"\b({names})\b", rule) for rule in new.rules - old.rules):
            found.append(f"adds a rule to {table}")
    return found


@pytest.fixture
def engine(databases: Databases) -> Iterator[sa.Engine]:
    """A database without tables."""
    url = databases.empty()
    made = sa.create_engine(url)
    yield made
    made.dispose()
    databases.drop(url)


@pytest.fixture
def upgrade_with(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[dict[str, Shape], dict[str, Shape]]]:
    """Return a function that upgrades by a new migration with this body, and returns the shapes before and after."""

    def upgrade(body: str) -> tuple[dict[str, Shape], dict[str, Shape]]:
        registry.migrate(engine, "head")
        before = describe(engine)
        folder = tmp_path / "migrations"
        shutil.copytree(schema_revisions.scripts(), folder)
        (folder / "versions" / "9000_next.py").write_text(HEADER + body)
        monkeypatch.setattr(schema_revisions, "scripts", lambda: folder)
        registry.migrate(engine, "head")
        return before, describe(engine)

    return upgrade


def scripts() -> list[Any]:
    """Return the migrations after the basis, oldest first."""
    return [*ScriptDirectory.from_config(schema_revisions.config()).iterate_revisions("head", BASIS)][::-1]


def test_every_new_migration_says_whether_it_is_additive() -> None:
    assert [script.revision for script in scripts() if not hasattr(script.module, "is_additive")] == []


@pytest.mark.slow
def test_additive_migrations_keep_what_older_code_relies_on(engine: sa.Engine) -> None:
    registry.migrate(engine, BASIS)
    before = describe(engine)
    for script in scripts():
        registry.migrate(engine, script.revision)
        after = describe(engine)
        if script.module.is_additive:
            assert find_breaks(before, after) == [], script.revision
        before = after


@pytest.mark.parametrize("change", ADDITIVE)
def test_addition_is_no_break(
    change: str, upgrade_with: Callable[[str], tuple[dict[str, Shape], dict[str, Shape]]]
) -> None:
    assert find_breaks(*upgrade_with(ADDITIVE[change])) == []


@pytest.mark.parametrize("change", BREAKING)
def test_break_is_found(change: str, upgrade_with: Callable[[str], tuple[dict[str, Shape], dict[str, Shape]]]) -> None:
    assert change.strip() in find_breaks(*upgrade_with(BREAKING[change]))
