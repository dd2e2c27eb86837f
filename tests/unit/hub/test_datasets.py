"""Data sets: added, with everything about their rows that users should know, and purged."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub import Hub, errors, settings
from finch_hub.artifacts.store import blob_path
from finch_hub.engine.data import reading
from finch_hub.specs.jobs import TrainSpec
from finch_hub.specs.reading import DataWarning

from .conftest import train_spec


def test_training_on_a_purged_data_set_is_refused(hub: Hub, data: Path, tiny_folder: Path) -> None:
    dataset = hub.datasets.add(data, name="birds-data")
    content = reading.dump_examples(reading.read_examples(data))
    blobs = hub.settings.home / "artifacts" / "blobs"
    assert content in [blob.read_bytes() for blob in blobs.rglob("*") if blob.is_file()]
    assert hub.datasets.purge("birds-data").purged_at is not None
    assert content not in [blob.read_bytes() for blob in blobs.rglob("*") if blob.is_file()]
    assert hub.datasets.get(dataset.digest).examples == 20
    with pytest.raises(errors.Conflict, match="purged"):
        hub.train("birds-data", adapter="birds", base=tiny_folder)


def test_purge_of_a_data_set_that_a_job_needs_is_refused(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.train(data, adapter="birds", base=tiny_folder, validation=0.0)
    assert isinstance(handle.spec, TrainSpec)
    with pytest.raises(errors.Conflict, match=handle.id):
        hub.datasets.purge(handle.spec.train)


def test_add_tells_what_was_left_out_and_not_used(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "tickets.csv"
    rows = "".join(f"{n};Où est {n} ?;Là-bas.\n" for n in range(40))
    file.write_bytes(f"id;question;reply\n{rows}40;Où ?;\n".encode("cp1252"))
    with pytest.warns(DataWarning) as warned:
        dataset = hub.datasets.add(file, name="tickets", prompt_column="question", completion_column="reply")
    assert (dataset.examples, dataset.name) == (40, "tickets")
    assert (dataset.reading.rows, dataset.reading.left_out, dataset.reading.unused) == (41, 1, {"id": 40})
    assert len(dataset.reading.recognized) == 2
    texts = "\n".join(str(warning.message) for warning in warned)
    for needle in ("Windows-1252", "semicolon", "line 42: reply is empty", "id (40 rows)"):
        assert needle in texts
    with pytest.raises(errors.InvalidDataset, match="which strict=True refuses"):
        hub.datasets.add(file, prompt_column="question", completion_column="reply", strict=True)


def test_limit_of_rows_that_are_left_out_comes_from_the_settings(tmp_path: Path, valkey_url: str) -> None:
    rows = [("a", "b")] * 9 + [("a", "")]
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url, max_bad_rows=0.1)) as hub:
        with pytest.warns(DataWarning, match="left out 1 of 10 rows"):
            assert hub.datasets.add(rows).examples == 9
        with pytest.raises(errors.InvalidDataset, match="example 10"):
            hub.datasets.add(rows, max_bad_rows=0.05)


@pytest.mark.parametrize("is_missing", [False, True])
def test_damaged_text_is_named_and_mended_by_adding_it_again(
    hub: Hub, data: Path, tiny_folder: Path, is_missing: bool
) -> None:
    stored = hub.datasets.add(data, name="facts")
    file = Path(hub.settings.artifacts) / blob_path(stored.digest)
    text = file.read_bytes()
    file.chmod(0o644)
    file.unlink() if is_missing else file.write_bytes(text[:-10])
    with pytest.raises(errors.InvalidInput, match=r"data set facts: its stored text .* .add its data again with"):
        hub.train("facts", adapter="birds", base=tiny_folder, validation=0.0)
    hub.datasets.add(data)
    assert file.read_bytes() == text
    assert hub.train("facts", adapter="birds", base=tiny_folder, validation=0.0).state == "queued"


def test_stored_data_set_can_be_named_again(hub: Hub, data: Path) -> None:
    first = hub.datasets.add(data)
    again = hub.datasets.add(first.digest, name="birds-data")
    assert (again.digest, again.name, again.reading.rows) == (first.digest, "birds-data", 20)


def test_system_prompt_is_stored_with_the_examples_that_have_none(hub: Hub) -> None:
    own = {"prompt": "a", "completion": "b", "system": "Sing."}
    rows = [own, {"prompt": "a", "completion": "b"}, {"text": "c"}]
    given = hub.datasets.add(rows, system="Chirp.")
    assert given.digest == hub.datasets.add([own, {**own, "system": "Chirp."}, {"text": "c"}]).digest
    assert given.digest != hub.datasets.add(rows).digest


def test_name_stands_for_one_data_set(hub: Hub) -> None:
    first = hub.datasets.add([("a", "b")], name="pairs")
    assert (first.is_new, hub.datasets.add([("a", "b")], name="pairs").is_new) == (True, False)
    with pytest.raises(errors.Conflict, match=r"data set pairs .* has other rows, 1 in number"):
        hub.datasets.add([("c", "d")], name="pairs")
    with pytest.raises(errors.Conflict, match="already stored as data set pairs"):
        hub.datasets.add([("a", "b")], name="couples")
    assert hub.datasets.get("pairs").digest == first.digest
    moved = hub.datasets.add([("c", "d")], name="pairs", replace=True)
    assert (hub.datasets.get("pairs").digest, moved.moved_from) == (moved.digest, first.digest)
    assert hub.datasets.get(first.digest).name is None
    assert hub.datasets.add([("c", "d")], name="couples", replace=True).name == "couples"
    with pytest.raises(errors.NotFound):
        hub.datasets.get("pairs")


def test_name_that_a_data_set_had_before_is_told(hub: Hub) -> None:
    first = hub.datasets.add([("a", "b")])
    named = hub.datasets.add([("a", "b")], name="pairs")
    renamed = hub.datasets.add([("a", "b")], name="couples", replace=True)
    again = hub.datasets.add([("a", "b")], replace=True)
    found = [added.renamed_from for added in (first, named, renamed, again)]
    assert found == [None, first.digest, "pairs", None]
    parts = hub.datasets.add({"train": [("c", "d")], "validation": [("a", "b")]}, name="new", replace=True)
    assert parts.validation is not None
    assert (parts.renamed_from, parts.validation.renamed_from) == (None, "couples")


def test_name_of_a_purged_data_set_is_free(hub: Hub) -> None:
    hub.datasets.add([("a", "b")], name="pairs")
    hub.datasets.purge("pairs")
    again = hub.datasets.add([("c", "d")], name="pairs")
    assert hub.datasets.get("pairs") == hub.datasets.get(again.digest)


def test_name_that_looks_like_a_digest_is_found_before_the_digest(hub: Hub) -> None:
    first = hub.datasets.add([("a", "b")])
    second = hub.datasets.add([("c", "d")], name=f"{first.digest[:8]}")
    assert hub.datasets.get(first.digest[:8]).digest == second.digest
    assert hub.datasets.get(first.digest[:9]).digest == first.digest


def test_both_splits_of_a_mapping_or_folder_are_stored(hub: Hub, tmp_path: Path) -> None:
    train, held_out = [{"prompt": "a", "completion": "b"}], [{"prompt": "c", "completion": "d"}]
    added = hub.datasets.add({"train": train, "validation": held_out}, name="pairs", system="Sing.")
    assert added.validation is not None
    assert (added.name, added.validation.name) == ("pairs", "pairs-validation")
    assert added.validation.digest == hub.datasets.add(held_out, system="Sing.").digest
    for number, name in enumerate(("dev", "valid.csv", "val", "validation-00000-of-00001.jsonl")):
        folder = tmp_path / str(number)
        (folder / "data").mkdir(parents=True)
        rows = "prompt,completion\na,b\n" if name.endswith("csv") else '{"prompt": "a", "completion": "b"}\n'
        (folder / "data" / "train.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')
        (folder / "data" / (name if "." in name else f"{name}.jsonl")).write_text(rows)
        validation = hub.datasets.add(folder).validation
        assert validation is not None
        assert validation.examples == 1


def test_validation_split_that_has_a_name_keeps_it(hub: Hub) -> None:
    hub.datasets.add([("c", "d")], name="held-out")
    added = hub.datasets.add({"train": [("a", "b")], "validation": [("c", "d")]}, name="pairs")
    assert added.validation is not None
    assert added.validation.name == "held-out"


def test_name_of_a_file_and_of_a_stored_data_set_is_refused(
    hub: Hub, data: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = hub.datasets.add([(f"{n}", "b") for n in range(20)], name="data.jsonl")
    monkeypatch.chdir(data.parent)
    for refused in (
        lambda: hub.train("data.jsonl", adapter="birds", base=tiny_folder),
        lambda: hub.train([("a", "b")], validation="data.jsonl", adapter="birds", base=tiny_folder),
        lambda: hub.evaluate("data.jsonl", base=tiny_folder),
    ):
        with pytest.raises(
            errors.InvalidInput, match=r"data.jsonl: is both .* \(write \./data.jsonl .* or [0-9a-f]{12}"
        ):
            refused()
    for name in ("./data.jsonl", data, Path("data.jsonl")):
        assert train_spec(hub, name, base=tiny_folder).train != stored.digest
    assert train_spec(hub, stored.digest[:12], base=tiny_folder, validation=0.0).train == stored.digest
    hub.datasets.add("data.jsonl", name="data.jsonl", replace=True)
    for job in hub.jobs.find():
        hub.jobs.get(job.id).cancel()
    hub.datasets.purge("data.jsonl")
    hub.train("data.jsonl", adapter="birds", base=tiny_folder)  # only the file is left


def test_messages_about_files_name_arguments_of_python(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question;reply\na;b\n")
    with pytest.warns(DataWarning, match=r"semicolon \(delimiter names another character\)"):
        hub.datasets.add(tmp_path / "a.csv", name="birds", prompt_column="question", completion_column="reply")
    with pytest.raises(errors.Conflict, match="with replace=True"):
        hub.datasets.add([("c", "d")], name="birds")
    with pytest.raises(errors.Conflict, match="rename it with replace=True"):
        hub.datasets.add([("a", "b")], name="finches")
    with pytest.raises(errors.InvalidDataset, match=r"add prompt_column='question', completion_column='reply'"):
        hub.datasets.add(tmp_path / "a.csv")
