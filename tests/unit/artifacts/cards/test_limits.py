from __future__ import annotations

from typing import Any

import pytest

from finch_hub.artifacts.cards.limits import list_limits
from finch_hub.specs.cards import CardBase, CardFacts
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.reports import DataReport, Forgetting, TrainingReport


def find(fact: str, **fields: Any) -> bool:
    """Tell whether the limits of a training with these facts say something."""
    data = DataReport.of({
        "examples": 5000, "tokens": 9, "label_tokens": 5, "length_mean": 3, "length_max": 9, "length_p95": 9,
        "validation_examples": 500, **fields.pop("data", {}),
    })  # fmt: skip
    report = TrainingReport(
        steps=1, epochs=1, tokens=1, seconds=1, train_loss=1, trainable_parameters=1, total_parameters=1, data=data,
        evaluations=5, forgetting=fields.pop("forgetting", None),
    )  # fmt: skip
    known = {"name": "birds", "kind": "train", "base": CardBase(label="tiny"), "metrics": {"loss_after": 1.0}}
    evidence = Evidence(kind="train", training=report)
    return any(fact in limit for limit in list_limits(CardFacts(**{**known, "evidence": evidence, **fields})))


def test_one_evaluation_chose_nothing() -> None:
    facts = CardFacts(name="birds", kind="train", base=CardBase(label="tiny"), metrics={"loss_after": 1.0})
    assert not [limit for limit in list_limits(facts) if "chose the checkpoint" in limit]


@pytest.mark.parametrize(
    ("fact", "with_it", "without_it"),
    [
        ("the best of 5 evaluations", {}, {"kind": "quantize"}),
        ("trained on 20 examples only", {"data": {"examples": 20}}, {}),
        ("Only 9 examples were held out", {"data": {"validation_examples": 9}}, {}),
        ("are also training examples", {"data": {"overlap": 2}}, {}),
        ("of a prompt that is in the training data", {"data": {"shared_prompts": 2}}, {}),
        ("nearly equal", {"data": {"near_duplicates": 2}}, {}),
        ("were cut", {"data": {"truncated": 2}}, {}),
        ("held-out rows was not measured", {"metrics": {}}, {}),
        ("prompts was not measured", {}, {"forgetting": Forgetting(before=0, after=0.1, tokens=9, prompts=1)}),
        ("lost other abilities", {"forgetting": Forgetting(before=0, after=0.9, tokens=9, prompts=1)}, {}),
        ("quarantine", {"state": "quarantined"}, {}),
        ("not held against its base", {"state": "unchecked"}, {}),
        ("imported", {"kind": "import"}, {}),
        ("(https://huggingface.co/birds/finch)", {"base": CardBase(label="x", hub_id="birds/finch")}, {}),
        ("safety", {}, None),
    ],
)
def test_limit_is_said_where_it_follows_from_a_fact(
    fact: str, with_it: dict[str, Any], without_it: dict[str, Any] | None
) -> None:
    assert find(fact, **with_it)
    assert without_it is None or not find(fact, **without_it)
