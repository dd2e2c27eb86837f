"""Every field that a user gives and a column stores accepts nothing that the column of a database refuses."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from support import registry

from finch_hub import errors
from finch_hub.registry import bases, tables, values
from finch_hub.registry.database import Database
from finch_hub.specs import evaluation, generation
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.jobs import BaseModelSource, ComposeSpec, EvaluateSpec, QuantizeSpec, Requirements, TrainSpec
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig
from finch_hub.specs.value import MAX_INTEGER, Value

J, B, V, A = (table.__table__ for table in (tables.Job, tables.Base, tables.AdapterVersion, tables.Adapter))
# Each field of a request, and the column that stores it.
STORED: list[tuple[type[Value], str, sa.Column[Any]]] = [
    (TrainingConfig, "seed", V.c.seed),
    (ComposeSpec, "seed", V.c.seed),
    (Requirements, "memory_bytes", J.c.memory_bytes),
    (Requirements, "queue", J.c.queue),
    (values.NewJob, "priority", J.c.priority),
    (values.NewJob, "idempotency_key", J.c.idempotency_key),
    (values.NewJob, "base_key", J.c.base_key),
    (values.NewJob, "group_key", J.c.gang),
    (TrainSpec, "adapter", A.c.name),
    (ComposeSpec, "adapter", A.c.name),
    (BaseModelSource, "source", B.c.name),
    (BaseModelSource, "revision", B.c.revision),
    (BaseDescription, "name", B.c.name),
    (BaseDescription, "revision", B.c.revision),
    (BaseDescription, "public_id", B.c.public_id),
    (BaseDescription, "parameters", B.c.parameters),
]
TEXT = "a"


def is_accepted(spec: type[Value], field: str, value: object) -> bool:
    """Tell whether a field takes a value, whatever the other fields."""
    try:
        spec.of({field: value})
    except errors.InvalidInput as error:
        return all(problem.where.partition(".")[0] != field for problem in error.problems)
    return True


def limit_of(column: sa.Column[Any], dialect: sa.Dialect) -> int:
    """Return the largest integer or the longest text of a column."""
    kind = column.type.dialect_impl(dialect)
    if isinstance(kind, sa.String):
        assert kind.length is not None
        return kind.length
    is_small = dialect.name == "postgresql" and not isinstance(kind, sa.BigInteger)
    return 2**31 - 1 if is_small else MAX_INTEGER


@pytest.mark.parametrize(("spec", "field", "column"), STORED, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.parametrize("dialect", [postgresql.dialect(), sqlite.dialect()], ids=lambda dialect: dialect.name)
def test_field_accepts_only_what_its_column_stores(
    spec: type[Value], field: str, column: sa.Column[Any], dialect: sa.Dialect
) -> None:
    limit = limit_of(column, dialect)
    is_text = isinstance(column.type, sa.String)
    assert not is_accepted(spec, field, TEXT * (limit + 1) if is_text else limit + 1)
    assert is_accepted(spec, field, TEXT if is_text else 1), "the field takes values at all"
    if not is_text:
        assert not is_accepted(spec, field, -limit - 2)


SPECS = (
    TrainingConfig, LoRAConfig, ComposeSpec, QuantizeSpec, EvaluateSpec, Requirements, values.NewJob,
    generation.GenerationConfig, evaluation.LossParameters, evaluation.AnswerParameters,
)  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "field"),
    [(spec, field) for spec in SPECS for field, info in spec.model_fields.items() if "int" in str(info.annotation)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_no_integer_of_a_request_exceeds_the_largest_of_the_databases(spec: type[Value], field: str) -> None:
    over = MAX_INTEGER + 1
    assert not any(is_accepted(spec, field, value) for value in (over, [over], {"a": over}))


@pytest.mark.parametrize("key", ["a" * 201, "", "a\0b"])
def test_key_that_a_database_cannot_store_is_refused_by_name(key: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="idempotency_key"):
        values.NewJob(spec={}, idempotency_key=key)


def test_extreme_values_are_stored(database: Database) -> None:
    base = BaseModelSource(source="b" * 512, revision="r" * 255)
    training = TrainingConfig(seed=MAX_INTEGER, threads=MAX_INTEGER, dtype="bfloat16")
    spec = registry.train_spec("a" * 96).evolve(base=base, training=training)
    needs = Requirements(queue="q" * 96, memory_bytes=MAX_INTEGER, labels=("l" * 96,), together=True)
    described = registry.describe_base(
        base.source, source=base.source, revision=base.revision, public_id="i" * 200, parameters=MAX_INTEGER
    ).evolve(architecture="ForCausalLM" * 40)
    with database.write() as session:
        job = registry.submit_job(session, spec, requirements=needs, priority=1000, idempotency_key="k" * 200)
        added = bases.add(session, described)
    registry.add_version(database, lineage=values.Lineage(seed=MAX_INTEGER))
    assert registry.get(database, job).requirements == needs
    assert added.architecture == ("ForCausalLM" * 40)[:96]
