"""Evaluations: their base and system prompt."""

from __future__ import annotations

import pytest
from support import registry

from finch_hub import Hub, errors
from finch_hub.registry import adapter_versions, bases
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import EvaluateSpec
from finch_hub.specs.reading import DataWarning


def test_evaluate_takes_base_and_system_prompt_of_its_adapters(hub: Hub, versions: Database) -> None:
    registry.add_version(versions, "strict", spec={"system": "Be strict."})
    spec = hub.evaluate([("a", "b")], ["strict"]).spec
    assert isinstance(spec, EvaluateSpec)
    assert (spec.base.source, spec.system, spec.adapters) == ("/models/tiny", "Be strict.", ("strict/1",))
    mixed = hub.evaluate([("a", "b")], ["strict", "medical"]).spec
    assert isinstance(mixed, EvaluateSpec)
    assert mixed.system is None
    with pytest.raises(errors.InvalidSpec, match="neither a base nor an adapter is given"):
        hub.evaluate([("a", "b")])
    with pytest.raises(errors.NotFound, match="did you mean 'exact_answer'"):
        hub.evaluate([("a", "b")], ["strict"], evaluator="exact_anser")


def test_adapter_must_be_made_for_the_revision_of_its_base(hub: Hub, database: Database) -> None:
    made = {}
    for revision in ("a" * 40, "b" * 40):
        fingerprint = registry.digest(revision[:4])
        described = registry.describe_base(
            f"org/tiny@{revision[0]}" if revision[0] == "a" else "org/tiny",
            source="org/tiny",
            revision=revision,
            fingerprint=fingerprint,
        )
        with database.write() as session:
            base = bases.add(session, described)
            name = f"of-{revision[0]}"
            digest = registry.digest(name)
            adapter_versions.create(session, name=name, digest=digest, identity=digest, base=base, kind="train")
        made[revision] = name
    for revision, name in made.items():
        spec = hub.evaluate([("a", "b")], [name], base="org/tiny", revision=revision).spec
        assert isinstance(spec, EvaluateSpec)
        assert spec.base.revision == revision
        (other,) = set(made.values()) - {name}
        with pytest.raises(errors.InvalidSpec, match=f"{other}/1: was made for"):
            hub.evaluate([("a", "b")], [other], base="org/tiny", revision=revision)
    assert hub.evaluate([("a", "b")], ["of-a"], base="org/tiny", revision="c" * 40).spec


@pytest.mark.usefixtures("versions")
def test_options_of_reading_reach_the_data(hub: Hub) -> None:
    rows = [{"q": f"a{n}", "r": "b", "id": n} for n in range(20)] + [{"q": "a", "r": ""}]
    columns = {"prompt_column": "q", "completion_column": "r"}
    with pytest.warns(DataWarning, match="id"), pytest.warns(DataWarning, match="left out 1 of 21 rows"):
        spec = hub.evaluate(rows, ["medical"], **columns).spec  # type: ignore[arg-type]
    assert isinstance(spec, EvaluateSpec)
    pairs = hub.evaluate([(row["q"], row["r"]) for row in rows[:20]], ["medical"]).spec
    assert isinstance(pairs, EvaluateSpec)
    assert spec.dataset == pairs.dataset
    with pytest.raises(errors.InvalidDataset, match="which strict=True refuses"):
        hub.evaluate(rows, ["medical"], strict=True, **columns)  # type: ignore[arg-type]
