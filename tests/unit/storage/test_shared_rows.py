"""Held-out rows of one adapter that another adapter was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support import registry

from finch_hub import settings
from finch_hub.engine.data import reading, splitting
from finch_hub.registry import values
from finch_hub.specs.examples import Example
from finch_hub.storage.shared_rows import find_shared_rows
from finch_hub.storage.stores import Stores, open_stores

ROWS = [Example.of_pair(f"What is {n}?", f"It is {n}.") for n in range(100)]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    opened = open_stores(settings.load(home=tmp_path / "home"))
    yield opened
    opened.database.close()


def add(stores: Stores, name: str, train: Sequence[Example], held_out: Sequence[Example] = ()) -> values.AdapterVersion:
    lineage = values.Lineage(
        train_digest=stores.artifacts.put(reading.dump_examples(train)),
        validation_digest=stores.artifacts.put(reading.dump_examples(held_out)) if held_out else None,
    )
    return registry.add_version(stores.database, name, lineage=lineage)


def test_parents_of_one_file_with_unlike_seeds_are_named_with_their_rows(stores: Stores) -> None:
    first, second = (
        add(stores, name, *splitting.split_examples(ROWS, 0.3, seed)) for name, seed in (("birds", 1), ("bees", 2))
    )
    sentences = find_shared_rows([first, second], stores)
    shared = len(set(splitting.split_examples(ROWS, 0.3, 1)[1]) & set(splitting.split_examples(ROWS, 0.3, 2)[0]))
    assert shared > 15
    assert len(sentences) == 2
    what = f"{shared} of 30 held-out rows of birds/1 are in the training data of bees/1, so its retention is too high"
    assert any(sentence.startswith(what) for sentence in sentences)


def test_parents_with_one_seed_or_other_data_share_nothing(stores: Stores) -> None:
    train, held_out = splitting.split_examples(ROWS, 0.3, 1)
    versions = [
        add(stores, "birds", train, held_out),
        add(stores, "bees", train, held_out),
        add(stores, "cows", [Example.of_pair("a", "b")]),
        registry.add_version(stores.database, "imported", kind="import"),
    ]
    assert find_shared_rows(versions, stores) == ()
    assert find_shared_rows(versions[:1], stores) == ()


def test_purged_data_is_not_compared(stores: Stores) -> None:
    first, second = add(stores, "birds", ROWS[:5], ROWS[5:]), add(stores, "bees", ROWS[5:])
    assert len(find_shared_rows([first, second], stores)) == 1
    stores.artifacts.remove(second.lineage.train_digest or "")
    assert find_shared_rows([first, second], stores) == ()


def test_data_that_cannot_be_read_is_not_compared(stores: Stores, tmp_path: Path) -> None:
    first, second = add(stores, "birds", ROWS[:5], ROWS[5:]), add(stores, "bees", ROWS[5:])
    digest = second.lineage.train_digest or ""
    (blob,) = [path for path in tmp_path.rglob("*") if path.is_file() and path.name == digest]
    blob.chmod(0o600)
    blob.write_bytes(b"damaged")
    assert find_shared_rows([first, second], stores) == ()
    blob.unlink()
    blob.mkdir()  # the store raises Unavailable
    assert find_shared_rows([first, second], stores) == ()


def test_training_data_is_read_row_by_row(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(stores.artifacts), "get")
    first, second = add(stores, "birds", ROWS[:5], ROWS[5:]), add(stores, "bees", ROWS[5:])
    (sentence,) = find_shared_rows([first, second], stores)
    assert sentence.startswith("95 of 95 held-out rows of birds/1")
