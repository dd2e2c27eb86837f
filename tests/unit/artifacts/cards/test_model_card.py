"""Text of model cards. That they are stored, exported and pushed is tested in tests/unit/storage and tests/unit/hub."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from finch_hub.artifacts.cards.model_card import draw_pictures, write_card, write_merged_card, write_searched_text
from finch_hub.specs.cards import CardBase, CardFacts, CardParent
from finch_hub.specs.evidence import Evidence, LossCurve
from finch_hub.specs.licenses import IDENTIFIERS
from finch_hub.specs.reports import CompositionReport, ConflictReport, DataReport, Retention, TrainingReport

PARENTS = (CardParent(reference="seeds/1", weight=0.5), CardParent(reference="buds/2", weight=1.0))
CURVE = LossCurve.of_points([(n, 3 / n + 1, 1e-3) for n in range(1, 30)], [(10, 2.0, 0.5), (29, 1.25, 0.6)])
DATA = DataReport(
    examples=1234,
    tokens=56789,
    label_tokens=23456,
    length_mean=46.2,
    length_max=300,
    length_p95=200,
    validation_examples=10,
    overlap=2,
)
TRAINED = Evidence(
    kind="train",
    curve=CURVE,
    training=TrainingReport(
        steps=29, epochs=1, tokens=9, seconds=1, train_loss=1.2, evaluations=2, trainable_parameters=1,
        total_parameters=2, data=DATA,
    ),
)  # fmt: skip


def make_facts(base: str = "birds/finch-1b", **fields: Any) -> CardFacts:
    licensed = {name: fields.pop(name) for name in ("license", "license_link") if name in fields}
    place = CardBase(label=base, hub_id=base if re.fullmatch(r"\w+/[\w-]+", base) else None, **licensed)
    return CardFacts(**{"name": "birds", "kind": "train", "base": place, **fields})


def make_card(base: str = "birds/finch-1b", **fields: Any) -> str:
    return write_card(make_facts(base, **fields))


def front_matter(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def check_metadata(card: str) -> None:
    """Check metadata by the parser of huggingface_hub, and by the rules that its documentation gives."""
    data = ModelCard(card).data.to_dict()
    assert data == {name: value for name, value in front_matter(card).items() if name != "model-index"} | (
        {"model-index": data["model-index"]} if "model-index" in data else {}
    )
    assert data["library_name"] == "peft"
    assert data["pipeline_tag"] == "text-generation"
    assert all(isinstance(tag, str) and tag for tag in data["tags"])
    assert data.get("license", "mit") in IDENTIFIERS | {"other"}
    assert ("license_name" in data) == (data.get("license") == "other")
    assert re.fullmatch(r"[a-z0-9.-]+", data.get("license_name", "x"))
    assert ("base_model" in data) == ("base_model_relation" in data)
    for model in data.get("model-index", []):
        for result in model["results"]:
            assert result["task"]["type"] == "text-generation"
            assert result["dataset"].keys() == {"type", "name"}
            assert all(math.isfinite(metric["value"]) for metric in result["metrics"])


@pytest.mark.parametrize("base", ["birds/finch-1b", "tiny"])
@pytest.mark.parametrize("known", ["apache-2.0", "llama3.1", "Finch Community License 1.0", None])
def test_metadata_are_valid_for_the_hub(base: str, known: str | None) -> None:
    link = "https://birds.example/license"
    card = make_card(base, license=known, license_link=link, metrics={"loss_after": 1.5}, validation_digest="a" * 64)
    check_metadata(card)
    front = front_matter(card)
    assert front.get("license") == ("other" if known and known not in IDENTIFIERS else known)
    if front.get("license") == "other":
        assert (front["license_name"], front["license_link"]) == ("finch-community-license-1.0", link)


def test_card_has_the_metadata_that_the_hub_reads() -> None:
    front = front_matter(make_card(validation_digest="a" * 64, metrics={"loss_after": 1.23456}))
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
    card = make_card(metrics=metrics, parents=PARENTS)
    assert "model-index" not in front_matter(card)
    assert "| rank | 8 |\n| share | 0.1235 |\n" in card
    assert "stopped_early" not in card
    assert "- `seeds/1`, weight 0.5\n- `buds/2`, weight 1\n" in card


def test_card_says_what_the_adapter_is_for_in_the_words_of_its_user() -> None:
    card = make_card(description="Names birds *well*.\nSee www.birds.example", spec={"preset": "style"})
    assert "## What it is for\n\nNames birds \\*well\\*.\nSee www\\.birds.example\n" in card
    assert "made by Finch Hub (train, with the preset `style`)" in card
    assert "What it is for" not in make_card()


def test_card_of_a_training_has_its_system_prompt() -> None:
    card = make_card(spec={"system": "Du bist ein Gärtner.\nAntworte kurz."})
    assert "## System prompt" in card
    assert "    Du bist ein Gärtner.\n    Antworte kurz.\n" in card
    assert '{"role": "system", "content": "Du bist ein Gärtner.\\nAntworte kurz."}' in card
    assert "System prompt" not in make_card(spec={"system": None})


def test_card_has_the_data_the_curve_and_the_licenses() -> None:
    card = make_card(evidence=TRAINED, metrics={"loss_after": 1.25}, license="mit", data_license="cc-by-4.0")
    assert "trained on 1,234 examples with 56,789 tokens, and 10 were held out." in card
    assert "![Loss by step: training loss from 4.000 to 1.103" in card
    assert "held-out loss from 2.000 to 1.250, at best 1.250, in 29 steps](loss.svg)" in card
    assert list(draw_pictures(make_facts(evidence=TRAINED))) == ["loss.svg"]
    assert "- Base: `mit`\n- Training data: `cc-by-4.0`\n" in card
    bare = make_card()
    assert "- Base: unknown\n- Training data: unknown\n" in bare
    assert "license:" not in bare
    assert "loss.svg" not in bare


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("https://birds.example/terms", "https://birds.example/terms"),
        ("LICENSE", "https://huggingface.co/birds/finch-1b/blob/main/LICENSE"),
        ("javascript:x", None),
        ("https://x.org/)[a](https://y.org", None),
        ("../LICENSE", None),
    ],
)
def test_link_of_a_license_is_an_address_or_a_file_of_the_base(link: str, address: str | None) -> None:
    card = make_card(license="mit", license_link=link)
    assert ("([text](" in card) == (address is not None)
    assert address is None or f"([text]({address}))" in card


def test_card_has_what_was_kept_of_each_parent() -> None:
    retention = (
        Retention(parent="seeds/1", status="measured", base=3.0, own=2.0, composed=2.5, retention=0.5),
        Retention(parent="a|b/1", status="unmeasured"),
    )
    report = CompositionReport(
        strategy="linear", scale=1, rank=8, conflicts=ConflictReport(parents=("seeds/1",)), retention=retention,
        rows="selection", below_retention=("seeds/1",),
    )  # fmt: skip
    card = make_card(kind="compose", evidence=Evidence(kind="compose", composition=report))
    assert "| `seeds/1` | 3.000 | 2.000 | 2.500 | 0.500 |" in card
    assert r"| `a\x7cb/1` | - | - | - | unmeasured |" in card
    assert r"![Retention by parent: seeds/1 50%, a\|b/1 unmeasured](retention.svg)" in card
    pictures = draw_pictures(make_facts(kind="compose", evidence=Evidence(kind="compose", composition=report)))
    assert list(pictures) == ["retention.svg"]
    unknown = report.evolve(retention=retention[1:])
    assert "retention.svg" not in make_card(kind="compose", evidence=Evidence(kind="compose", composition=unknown))
    assert "- It keeps less of `seeds/1` than was requested.\n" in card
    assert "## Retention" not in make_card(kind="compose", evidence=Evidence(kind="compose"))


def test_text_for_searches_has_no_words_that_all_cards_have() -> None:
    facts = make_facts(evidence=TRAINED, spec={"system": "Be a gardener."}, metrics={"loss_after": 1.25})
    text = write_searched_text(facts)
    assert "Be a gardener." in text
    assert not [word for word in ("vllm", "Ollama", "import", "safety", "transformers", "peft") if word in text]
    assert "`birds/finch-1b`" in text
    described = write_searched_text(facts.evolve(description="In nest *3*."))
    assert described == text, "searches look at the description itself, and a purge does not know it escaped"


@pytest.mark.parametrize("loss", [True, math.nan, math.inf, 1e17, 10**400])
def test_loss_that_yaml_would_not_read_as_a_number_is_left_out(loss: float) -> None:
    assert "model-index" not in front_matter(make_card(metrics={"loss_after": loss}))


def test_card_says_what_the_first_loss_is_of() -> None:
    both = {"loss_before": 2.0, "loss_after": 1.0}
    assert "`loss_before` is of the base alone, " in make_card(metrics=both)
    assert "`loss_before` is of `seeds/1`, " in make_card(metrics=both, parents=PARENTS[:1])
    assert "`loss_before`" not in make_card(metrics={"loss_after": 1.0})


def test_name_in_an_export_is_not_put_into_the_metadata() -> None:
    renamed = make_facts().base.evolve(label="models/smol")
    card = write_card(make_facts().evolve(base=renamed))
    assert front_matter(card)["base_model"] == "birds/finch-1b"
    assert "A LoRA adapter for `models/smol`" in card
    assert front_matter(write_card(make_facts().evolve(base=renamed.evolve(hub_id="gpt2"))))["base_model"] == "gpt2"


HOSTILE = (
    "x\x1b]0;title\x07", "\x9b2J", "\u202eevil", "</script><img src=x onerror=x>", "[a](javascript:x)", "| a | b |",
    "\n# heading", "x\n---\nlicense: x", "`a` *b*", "https://x.org", "\ud800", "a\\", "```\nx", "1. x", "12345) x",
    "- x", "+ x", "> x", "===", "    code", "<!-- x", "![a](b)", "www.x.org", "x@y.org", "~~~", "&lt;", "$x$",
    "a\n\n\nb",
)  # fmt: skip


def parse(card: str) -> list[str]:
    """Return the blocks of a card and the parts of its lines, without the texts."""
    _, _, text = card.split("---\n", maxsplit=2)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    kinds = [part for token in tokens for part in (token.type, *(child.type for child in token.children or ()))]
    return [kind.replace("code_inline", "text") for kind in kinds if kind not in ("softbreak", "text_special")]


def drop_prose(kinds: list[str]) -> list[str]:
    """Return kinds without texts and ends of paragraphs, of which a description of several lines has more."""
    return [kind for kind in kinds if kind not in ("text", "paragraph_open", "paragraph_close", "inline")]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_forges_a_part_of_a_card(text: str) -> None:
    def write(text: str) -> str:
        return make_card(
            text,
            name=text,
            kind=text,
            reference=text,
            spec={"system": f"{text}\n{text}", "preset": text},
            description=text,
            metrics={"loss_after": 1.5, text: text},
            parents=(CardParent(reference=text, weight=1.0),),
            validation_digest=text,
            data_license=text,
            license=text,
            license_link=text,
            repository=(text, text),
            evidence=TRAINED,
        )

    card = write(text)
    card.encode()
    assert all(char.isprintable() or char == "\n" for char in card)
    assert parse(card).count("code_block") == 1
    expected = drop_prose(parse(write("x y")))
    assert drop_prose(parse(card)) == [*expected] or text == "https://x.org"  # the address of a license is a link
    assert front_matter(card).keys() - {"license_link"} == front_matter(write("x")).keys()
    assert text == "www.x.org" or "base_model" not in front_matter(write(f"a/{text}")), "it is no name of a repository"
    merged = write_merged_card(text, [{"name": text, "weight": 1.0}], text)
    assert drop_prose(parse(merged)) == drop_prose(parse(write_merged_card("x", [{"name": "x", "weight": 1.0}], None)))
    assert text == "www.x.org" or "base_model" not in front_matter(merged)
