"""Evaluations: their base and system prompt."""

from __future__ import annotations

import pytest
from support import registry

from finch_hub import Hub, errors
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
