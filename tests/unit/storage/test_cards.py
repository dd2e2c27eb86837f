"""Cards of versions on both databases: written from what is known, edited, carried, searched and purged."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry
from support.adapters import VARIANTS, save_adapter
from support.backups import Open
from support.safetensors_files import adapter_folder

from finch_hub import errors
from finch_hub.engine.data.example_file import ExampleFile
from finch_hub.hub.adapters import Adapters
from finch_hub.hub.datasets import Datasets
from finch_hub.hub.examples import register_examples, store_examples
from finch_hub.registry import adapter_names, adapter_versions, audit, bases, datasets, tables, values
from finch_hub.specs.cards import MAX_CARD, CardFiles
from finch_hub.specs.evidence import Evidence, LossCurve
from finch_hub.specs.examples import Example
from finch_hub.specs.reports import DataReport, ReadingReport, TrainingReport
from finch_hub.storage import cards, publishing
from finch_hub.storage.bundling import make_bundle
from finch_hub.storage.changes import changing
from finch_hub.storage.stores import Stores
from finch_hub.storage.unbundling import take_bundle

ROWS = [(f"Where does finch {n} sleep at night?", f"In nest *{n}* of the old garden.") for n in range(20)]
CURVE = LossCurve.of_points([(n, 3 / n, 1e-3) for n in range(1, 9)], [(8, 2.0, 0.5)])
DATA = DataReport(examples=20, tokens=90, label_tokens=40, length_mean=4.5, length_max=9, length_p95=8)
TRAINED = Evidence(
    kind="train",
    curve=CURVE,
    training=TrainingReport(
        steps=8, epochs=1, tokens=90, seconds=1, train_loss=1, trainable_parameters=1, total_parameters=9, data=DATA
    ),
)


@pytest.fixture
def stores(open_hub: Open, database_url: str) -> Stores:
    return open_hub("one", database_url)


@pytest.fixture
def adapters(stores: Stores, tmp_path: Path) -> Adapters:
    """The adapters of a hub with `birds/1`, which was trained on the data set `finches`."""
    data = Datasets(stores).add(ROWS, name="finches", license="CC-BY-4.0")
    base = registry.add_base(stores.database)
    description = publishing.Description(
        name="birds", kind="train", base=base, evidence=TRAINED, metrics={"loss_before": 3.0, "loss_after": 2.0},
        spec={"system": "Be a warden.", "preset": "style"}, lineage=values.Lineage(train_digest=data.digest),
    )  # fmt: skip
    create = publishing.publish(adapter_folder(tmp_path / "in"), stores, description, {})
    with stores.database.write() as session:
        create(session, base)
    return Adapters(stores)


def test_written_card_has_what_is_known_now(stores: Stores, adapters: Adapters) -> None:
    card = adapters.card("birds")
    assert (card.adapter, card.edited_at, card.revision) == ("birds/1", None, "written")
    assert card.text.endswith(card.body)
    for known in (
        "with the preset `style`",
        "    Be a warden.",
        "20 examples with 90 tokens",
        "](loss.svg)",
        "`birds/1`",
        "- Training data: `cc-by-4.0`",
        "- Base: unknown",
        "vllm serve tiny --enable-lora --lora-modules",
    ):
        assert known in card.body, known
    assert "finches" not in card.text, "names of data sets stay in the hub"
    assert list(card.pictures) == ["loss.svg"]
    with stores.database.write() as session:
        adapter_names.describe(session, "birds", "Names birds.")
        bases.add(session, registry.describe_base("tiny", license="mit", public_id="org/tiny"), license_given=True)
    adapters.rename("birds", "team/finches")
    card = adapters.card("birds/1")
    for known in (
        "## What it is for\n\nNames birds.\n",
        "- Base: `mit`",
        "`team/finches/1`",
        "huggingface.co/org/tiny",
    ):
        assert known in card.body, known
    assert 'license: "mit"\n' in card.text


def test_edited_card_keeps_the_metadata_and_comes_back_as_written(stores: Stores, adapters: Adapters) -> None:
    written = adapters.card("birds")
    edited = adapters.edit_card("birds", "# Finches\r\n\r\nBy hand, \x1b[2J, of quokkas.\n", expected=written.revision)
    assert edited.body == "# Finches\n\nBy hand, \\x1b[2J, of quokkas.\n"
    assert edited.text == written.text.removesuffix(written.body) + edited.body
    assert edited.edited_at is not None
    assert edited.pictures == written.pictures
    assert [version.reference for version in adapters.find("quokkas").versions] == ["birds/1"]
    assert adapters.edit_card("birds", edited.text).body == edited.body, "the whole text stands for its Markdown"
    assert adapters.reset_card("birds") == written
    assert adapters.find("quokkas").versions == ()
    assert [version.reference for version in adapters.find("warden").versions] == ["birds/1"]
    with stores.database.read() as session:
        entries = audit.find(session)
    assert [entry.action for entry in entries][:3] == ["card.reset", "card.edit", "card.edit"]
    assert {entry.on for entry in entries[:3]} == {"birds/1"}


def test_second_of_two_concurrent_edits_is_refused(stores: Stores, adapters: Adapters) -> None:
    before = adapters.card("birds")
    first = adapters.edit_card("birds", "one", expected=before.revision)
    with pytest.raises(errors.Conflict, match="the card of birds/1 was edited meanwhile"):
        adapters.edit_card("birds", "two", expected=before.revision)
    assert adapters.card("birds") == first
    assert adapters.edit_card("birds", "two", expected=first.revision).body == "two\n"
    with stores.database.read() as session:
        outcomes = [entry.outcome for entry in audit.find(session, action="card.edit")]
    assert outcomes == ["done", "refused", "done"]


def test_one_of_two_edits_at_the_same_moment_is_refused(stores: Stores, adapters: Adapters) -> None:
    for _ in range(8):
        before = adapters.card("birds").revision
        start = threading.Barrier(2)

        def edit(text: str, expected: str, start: threading.Barrier) -> bool:
            start.wait()
            try:
                with stores.database.write() as session:
                    adapter_versions.edit_card(session, "birds/1", text, expected=expected)
                    time.sleep(0.02)
            except errors.Conflict:
                return False
            return True

        with ThreadPoolExecutor(2) as threads:
            done = list(threads.map(edit, ("one\n", "two\n"), (before, before), (start, start)))
        assert sorted(done) == [False, True]
        adapters.edit_card("birds", f"start {before}")


def test_text_between_two_rules_is_no_metadata(adapters: Adapters) -> None:
    text = "---\nA note.\n---\n# Birds\n"
    edited = adapters.edit_card("birds", text)
    assert edited.body == text
    assert adapters.edit_card("birds", edited.text).body == text
    assert adapters.card("birds").body == text


def test_second_block_of_metadata_is_refused_and_not_dropped(adapters: Adapters) -> None:
    before = adapters.card("birds")
    front = before.text.removesuffix(before.body)
    with pytest.raises(errors.InvalidInput, match="the metadata between the lines ---"):
        adapters.edit_card("birds", f"{front}---\nlicense: mit\n---\n# Birds\n")
    with pytest.raises(errors.InvalidInput, match="the metadata between the lines ---"):
        adapters.edit_card("birds", f"{front}{front}# Birds\n")
    assert adapters.card("birds") == before


def test_written_card_for_searches_has_nothing_that_a_purge_would_miss(stores: Stores, adapters: Adapters) -> None:
    adapters.describe("birds", ROWS[4][1])
    adapters.reset_card("birds")
    Datasets(stores).purge("finches")
    with stores.database.read() as session:
        assert "nest" not in adapter_versions.resolve(session, "birds/1").card


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the text is empty"),
        ("---\nlicense: mit\n---\n# Birds\n", "the metadata between the lines --- are written from what is known"),
        ("x" * (MAX_CARD + 1), "more than 200,000"),
    ],
)
def test_text_that_no_card_can_have_is_refused(adapters: Adapters, text: str, reason: str) -> None:
    before = adapters.card("birds")
    with pytest.raises(errors.InvalidInput, match=reason):
        adapters.edit_card("birds", text)
    with pytest.raises(errors.InvalidInput, match="the text is empty"):
        adapters.edit_card("birds", before.text.removesuffix(before.body))
    assert adapters.card("birds") == before


def test_purge_of_data_takes_its_rows_out_of_an_edited_card(stores: Stores, adapters: Adapters) -> None:
    adapters.edit_card("birds", f"# Birds\n\nIt says: {ROWS[3][1]}\n")
    adapters.describe("birds", f"Knows that {ROWS[4][1]}")
    assert r"In nest \*4\* of the old garden" in adapters.reset_card("birds").body
    adapters.edit_card("birds", f"# Birds\n\nIt says: {ROWS[3][1]}\n")
    Datasets(stores).purge("finches")
    assert adapters.card("birds").body == "(purged)\n"
    folder = stores.artifacts.fetch_tree(adapters.get("birds").digest)
    body = adapters.reset_card("birds").body
    assert "In nest" not in body + (folder / "README.md").read_text()


def test_edited_card_and_licenses_come_with_a_bundle(
    stores: Stores, adapters: Adapters, open_hub: Open, tmp_path: Path
) -> None:
    with stores.database.write() as session:
        bases.add(session, registry.describe_base("tiny", license="Finch Terms"), license_given=True)
    edited = adapters.edit_card("birds", "# By hand\n")
    other = open_hub("two")

    def carry(file: Path) -> tuple[str, ...]:
        make_bundle(file, ["birds"], stores)
        with changing(other, "hub.unbundle", file) as change:
            return take_bundle(file, other, change, read_layout=lambda base: None).kept

    assert carry(tmp_path / "one.bundle") == ()
    there = Adapters(other)
    assert there.card("birds/1").body == edited.body
    assert "- Base: `Finch Terms`\n- Training data: `cc-by-4.0`\n" in there.reset_card("birds/1").body
    assert there.get("birds/1").base.license == "Finch Terms"
    assert carry(tmp_path / "two.bundle") == ()
    assert there.card("birds/1").body == edited.body, "a written card takes the edited one"
    there.edit_card("birds/1", "# Of others\n")
    assert carry(tmp_path / "three.bundle") == ("the card of birds/1",)
    assert there.card("birds/1").body == "# Of others\n"


def test_written_card_is_in_no_bundle_and_an_edit_has_its_time(
    stores: Stores, adapters: Adapters, open_hub: Open, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "one.bundle", ["birds"], stores)
    adapters.edit_card("birds", "# By hand\n")
    make_bundle(tmp_path / "two.bundle", ["birds"], stores)
    adapters.reset_card("birds")
    make_bundle(tmp_path / "three.bundle", ["birds"], stores)
    assert (tmp_path / "three.bundle").read_bytes() == (tmp_path / "one.bundle").read_bytes()
    other = open_hub("two")
    for name in ("one", "two"):
        with changing(other, "hub.unbundle", name) as change:
            take_bundle(tmp_path / f"{name}.bundle", other, change, read_layout=lambda base: None)
        if name == "one":
            assert [found.reference for found in Adapters(other).find("warden").versions] == ["birds/1"]
    make_bundle(tmp_path / "four.bundle", ["birds"], other)
    assert (tmp_path / "four.bundle").read_bytes() == (tmp_path / "two.bundle").read_bytes()


def test_edited_card_that_may_quote_purged_data_stays_away(
    stores: Stores, adapters: Adapters, open_hub: Open, tmp_path: Path
) -> None:
    adapters.edit_card("birds", f"# Birds\n\n{ROWS[3][1]}\n")
    make_bundle(tmp_path / "old.bundle", ["birds"], stores)
    other = open_hub("two")
    Datasets(other).add(ROWS, name="finches")
    Datasets(other).purge("finches")
    Datasets(stores).purge("finches")
    held_back = {
        "(purged)\n": "no edited card of birds/1, since it may quote data that was purged here",
        None: "no edited card and evidence of birds/1, since they may quote data that was purged here",
    }
    for hub, body in ((stores, "(purged)\n"), (other, None)):
        with changing(hub, "hub.unbundle", "old") as change:
            taken = take_bundle(tmp_path / "old.bundle", hub, change, read_layout=lambda base: None)
        assert taken.kept == (held_back[body],)
        card = Adapters(hub).card("birds/1")
        assert "nest" not in card.body
        assert (card.edited_at is None) == (body is None)
        assert body in (None, card.body)


def test_licenses_reach_a_hub_that_knows_the_version(
    stores: Stores, adapters: Adapters, open_hub: Open, tmp_path: Path
) -> None:
    other = open_hub("two")

    def carry(name: str) -> tuple[str, ...]:
        make_bundle(tmp_path / f"{name}.bundle", ["birds"], stores)
        with changing(other, "hub.unbundle", name) as change:
            return take_bundle(tmp_path / f"{name}.bundle", other, change, read_layout=lambda base: None).kept

    digest = adapters.get("birds").lineage.train_digest or ""
    with stores.database.write() as session:
        session.execute(sa.update(tables.Dataset).values(license=None))
    assert carry("one") == ()
    with stores.database.write() as session:
        bases.add(session, registry.describe_base("tiny", license="mit", license_link="LICENSE"), license_given=True)
        datasets.set_license(session, digest, "cc-by-4.0")
    assert carry("two") == ()
    there = Adapters(other)
    assert "- Base: `mit`\n- Training data: `cc-by-4.0`\n" in there.card("birds/1").body
    assert there.get("birds/1").base.license_link == "LICENSE"
    with stores.database.write() as session:
        bases.add(session, registry.describe_base("tiny", license="isc"), license_given=True)
        datasets.set_license(session, digest, "gpl")
    assert carry("three") == (
        "license mit of base tiny (the bundle has isc)",
        "license cc-by-4.0 of the data of birds/1 (the bundle has gpl)",
    )
    assert "- Base: `mit`\n- Training data: `cc-by-4.0`\n" in there.card("birds/1").body


def test_long_card_of_an_earlier_hub_goes_into_a_bundle_and_an_empty_one_does_not(
    stores: Stores, adapters: Adapters, open_hub: Open, tmp_path: Path
) -> None:
    for text in ("x" * 300_000, " "):
        with stores.database.write() as session:
            adapter_versions.edit_card(session, "birds/1", text)
        if text == " ":
            with pytest.raises(errors.Damaged, match="its edited card is empty"):
                make_bundle(tmp_path / "empty.bundle", ["birds"], stores)
            break
        make_bundle(tmp_path / "long.bundle", ["birds"], stores)
        other = open_hub("two")
        with changing(other, "hub.unbundle", "long") as change:
            take_bundle(tmp_path / "long.bundle", other, change, read_layout=lambda base: None)
        assert Adapters(other).card("birds/1").body == f"{text}\n"


@pytest.mark.parametrize(
    ("config", "files"),
    [
        (VARIANTS["plain"], CardFiles()),
        (VARIANTS["rslora"], CardFiles(is_folded=False)),
        (VARIANTS["patterns"], CardFiles(is_folded=False)),
        (VARIANTS["dora"], CardFiles(parts=("DoRA magnitudes",))),
        (
            {"target_modules": ["embed_tokens"]},
            CardFiles(parts=("whole modules (modules_to_save)", "updates of embeddings")),
        ),
        ({"target_modules": ["lm_head"]}, CardFiles(parts=("whole modules (modules_to_save)",), has_head=True)),
    ],
)
def test_card_tells_what_others_must_know_of_the_files(
    tiny_folder: Path, tmp_path: Path, config: dict[str, Any], files: CardFiles
) -> None:
    assert cards.describe_files(save_adapter(tiny_folder, tmp_path / "adapter", **config)) == files


def test_version_whose_files_are_gone_has_a_card_without_their_commands(stores: Stores) -> None:
    stores.artifacts.check()  # marks the store before there is a row
    registry.add_version(stores.database, "medical", metrics={"rank": 4})
    body = Adapters(stores).card("medical").body
    assert "Whether vLLM and Ollama load it is not known" in body
    assert "vllm serve" not in body


def test_license_of_data_stays_until_another_is_given(stores: Stores, adapters: Adapters) -> None:
    found = Datasets(stores)
    assert found.add(ROWS, name="finches").license == "cc-by-4.0"
    assert found.add(ROWS, license="mit").license == "mit"
    with pytest.raises(errors.InvalidInput, match="does not name a license"):
        found.add(ROWS, license="unknown")
    with stores.database.read() as session:
        assert datasets.get(session, "finches").license == "mit"


def test_part_of_data_takes_its_license(stores: Stores, adapters: Adapters) -> None:
    def register(answer: str, *sources: str) -> str | None:
        with ExampleFile() as file, stores.database.write() as session:
            file.add(Example.of({"messages": [{"role": "user", "content": "Who?"},
                                              {"role": "assistant", "content": answer}]}))  # fmt: skip
            part = store_examples(file, stores, ReadingReport(rows=1), made_of=sources)
            return register_examples(session, part, stores, of_jobs=True).license

    known = Datasets(stores).get("finches").digest
    same = Datasets(stores).add([("Who?", "A wren.")], license="cc-by-4.0").digest
    other = Datasets(stores).add([("Who?", "An owl.")], license="mit").digest
    bare = Datasets(stores).add([("Who?", "A bee.")]).digest
    assert register("1", known) == register("2", known, same) == "cc-by-4.0"
    assert [register("3"), register("4", known, other), register("5", known, bare)] == [None, None, None]


def test_license_of_the_files_of_a_base_fills_a_gap_and_replaces_nothing(stores: Stores) -> None:
    def add(license: str | None, *, given: bool = False) -> str | None:  # noqa: A002
        with stores.database.write() as session:
            described = registry.describe_base("tiny", license=license, license_link=license and "LICENSE")
            return bases.add(session, described, license_given=given).license

    assert [add(None), add("mit"), add("gpl"), add("isc", given=True), add("mit"), add(None)] == [
        None, "mit", "mit", "isc", "isc", "isc",
    ]  # fmt: skip


def test_folder_for_an_export_has_the_files_and_the_card_of_now(
    stores: Stores, adapters: Adapters, tmp_path: Path
) -> None:
    edited = adapters.edit_card("birds", "# By hand\n")
    stored = stores.artifacts.fetch_tree(adapters.get("birds").digest)
    folder = cards.lay_out(tmp_path / "out", edited, stored)
    assert {file.name for file in folder.iterdir()} == {file.name for file in stored.iterdir()}
    assert (folder / "README.md").read_text() == edited.text
    assert (folder / "loss.svg").read_text() == edited.pictures["loss.svg"]
    assert (stored / "README.md").read_text() != edited.text
    assert (folder / "adapter_model.safetensors").read_bytes() == (stored / "adapter_model.safetensors").read_bytes()


def test_edit_leaves_identity_and_files_alone(stores: Stores, adapters: Adapters) -> None:
    before = adapters.get("birds")
    adapters.edit_card("birds", "# By hand\n")
    with stores.database.read() as session:
        after = adapter_versions.resolve(session, "birds/1")
    assert (after.identity, after.digest) == (before.identity, before.digest)
