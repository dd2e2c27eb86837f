"""Text of model cards. That they are stored with their adapters is tested in tests/acceptance."""

from __future__ import annotations

import json

import yaml

from finch_hub.registry import values
from finch_hub.storage import model_card

PARENTS = (values.ParentVersion(reference="seeds/1", weight=0.5), values.ParentVersion(reference="buds/2"))


def front_matter(card: str) -> dict[str, object]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_card_has_the_metadata_that_the_hub_reads() -> None:
    lineage = values.Lineage(validation_digest="a" * 64)
    card = model_card.write("birds", "train", 'folder/with "quotes"', lineage, {"loss_after": 1.23456})
    front = front_matter(card)
    assert front["base_model"] == 'folder/with "quotes"'
    assert front["library_name"] == "peft"
    assert json.dumps(front["model-index"]).count("1.2346") == 1


def test_card_shows_numbers_and_parents() -> None:
    metrics = {"rank": 8, "share": 0.123456, "stopped_early": True, "quarantine": ["x"]}
    card = model_card.write("both", "compose", "finch", values.Lineage(parents=PARENTS), metrics)
    assert "model-index" not in front_matter(card)
    assert "| rank | 8 |\n| share | 0.1235 |\n" in card
    assert "stopped_early" not in card
    assert "- `seeds/1`, weight 0.5\n- `buds/2`, weight 1\n" in card
