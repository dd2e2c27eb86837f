"""Text of model cards. That they are stored with their adapters is tested in tests/unit/storage."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from finch_hub.formats.model_card import write_card

PARENTS = [{"reference": "seeds/1", "weight": 0.5}, {"reference": "buds/2", "weight": 1.0}]


def make_card(base: str = "birds/finch-1b", **fields: Any) -> str:
    return write_card({"name": "birds", "kind": "train", "lineage": {}, "metrics": {}, **fields}, base)


def front_matter(card: str) -> dict[str, object]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_card_has_the_metadata_that_the_hub_reads() -> None:
    front = front_matter(make_card(lineage={"validation_digest": "a" * 64}, metrics={"loss_after": 1.23456}))
    assert front["base_model"] == "birds/finch-1b"
    assert "base_model:adapter:birds/finch-1b" in str(front["tags"])
    assert front["library_name"] == "peft"
    assert json.dumps(front["model-index"]).count("1.2346") == 1


@pytest.mark.parametrize("name", ["tiny", 'folder "with" quotes', "finch.gguf"])
def test_name_that_is_no_repository_id_is_shown_and_not_put_into_the_metadata(name: str) -> None:
    card = make_card(name)
    assert "base_model" not in str(front_matter(card))
    assert f"A LoRA adapter for `{name}`" in card


def test_card_shows_numbers_and_parents() -> None:
    metrics = {"rank": 8, "share": 0.123456, "stopped_early": True, "quarantine": ["x"]}
    card = make_card(metrics=metrics, lineage={"parents": PARENTS})
    assert "model-index" not in front_matter(card)
    assert "| rank | 8 |\n| share | 0.1235 |\n" in card
    assert "stopped_early" not in card
    assert "- `seeds/1`, weight 0.5\n- `buds/2`, weight 1\n" in card


def test_card_of_a_training_says_that_its_rows_chose_the_checkpoint() -> None:
    sentence = "The rows of `loss_after` also chose the checkpoint"
    assert sentence in make_card(metrics={"loss_after": 1.5})
    assert sentence not in make_card(kind="quantize", metrics={"loss_after": 1.5})
    assert sentence not in make_card(metrics={"rank": 8})


def test_card_of_a_training_has_its_system_prompt() -> None:
    card = make_card(spec={"system": "Du bist ein Gärtner.\nAntworte kurz."})
    assert "## System prompt" in card
    assert "    Du bist ein Gärtner.\n    Antworte kurz.\n" in card
    assert "System prompt" not in make_card(spec={"system": None})
