"""Text of model cards. That they are stored with their adapters is tested in tests/unit/storage."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from finch_hub.formats.model_card import write_card, write_merged_card

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


HOSTILE = (
    "x\x1b]0;title\x07", "\x9b2J", "\u202eevil", "</script><img src=x onerror=x>", "[a](javascript:x)", "| a | b |",
    "\n# heading", "x\n---\nlicense: x", "`a` *b*", "https://x.org", "\ud800", "a\\",
)  # fmt: skip


def parse(card: str) -> list[str]:
    """Return the blocks of a card and the parts of its lines, without the texts."""
    _, _, text = card.split("---\n", maxsplit=2)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = [part for token in tokens for part in (token.type, *(child.type for child in token.children or ()))]
    return [kind.replace("code_inline", "text") for kind in kinds if kind != "softbreak"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_forges_a_part_of_a_card(text: str) -> None:
    def write(text: str) -> str:
        metrics = {"loss_after": 1.5, text: text}
        parents = [{"reference": text, "weight": 1.0}]
        spec = {"system": f"{text}\n{text}"}
        lineage = {"parents": parents, "validation_digest": text}
        return write_card({"name": text, "kind": text, "spec": spec, "lineage": lineage, "metrics": metrics}, text)

    card = write(text)
    card.encode()
    assert all(char.isprintable() or char == "\n" for char in card)
    assert parse(card).count("code_block") == 1
    assert [kind for kind in parse(card) if kind != "text"] == [kind for kind in parse(write("x y")) if kind != "text"]
    assert front_matter(card).keys() == front_matter(write("x")).keys()
    assert front_matter(write(f"a/{text}")).keys() == front_matter(card).keys(), "it is no name of a repository"
    merged = write_merged_card(text, [{"name": text, "weight": 1.0}], text)
    assert [kind for kind in parse(merged) if kind != "text"] == [
        kind for kind in parse(write_merged_card("x", [{"name": "x", "weight": 1.0}], None)) if kind != "text"
    ]
    assert "base_model" not in front_matter(merged)


def test_card_has_the_data_and_what_was_kept_of_each_parent() -> None:
    trained = {"training": {"data": {"examples": 1234, "tokens": 56789, "validation_examples": 10}}}
    record: dict[str, Any] = {"name": "birds", "kind": "train", "lineage": {}, "metrics": {}}
    assert "trained on 1,234 examples with 56,789 tokens, and 10 were held out." in write_card(record, "tiny", trained)
    retention = [
        {"parent": "seeds/1", "status": "measured", "base": 3.0, "own": 2.0, "composed": 2.5, "retention": 0.5},
        {"parent": "a|b/1", "status": "unmeasured"},
    ]
    card = write_card(record, "tiny", {"composition": {"retention": retention}})
    assert "| `seeds/1` | 3.000 | 2.000 | 2.500 | 0.500 |" in card
    assert r"| `a\x7cb/1` | - | - | - | unmeasured |" in card
    assert "## Retention" not in write_card(record, "tiny", {"kind": "compose"})
