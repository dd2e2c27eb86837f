"""Submitting a training: what is refused, all of it at once, and what is stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finch_hub import Example, Hub, errors
from finch_hub.engine.data import reading
from finch_hub.specs.jobs import JobState, Requirements, TrainSpec


def spec_of(hub: Hub, data: object, **options: object) -> TrainSpec:
    spec = hub.train(data, adapter="birds", **options).spec  # type: ignore[arg-type]
    assert isinstance(spec, TrainSpec)
    return spec


def test_a_job_names_its_data_by_hash(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.train(data, adapter="birds", base=tiny_folder)
    assert handle.state is JobState.QUEUED
    spec = handle.spec
    assert isinstance(spec, TrainSpec)
    stored = {dataset.digest: dataset.examples for dataset in hub.datasets.find()}
    assert spec.validation is not None
    assert stored == {spec.train: 18, spec.validation: 2}
    assert spec.base.source == str(tiny_folder)


def test_the_split_holds_out_other_rows_than_it_trains_on_and_is_repeatable(
    hub: Hub, data: Path, tiny_folder: Path
) -> None:
    first = spec_of(hub, data, base=tiny_folder, validation=0.25, seed=3)
    again = spec_of(hub, data, base=tiny_folder, validation=0.25, seed=3)
    other = spec_of(hub, data, base=tiny_folder, validation=0.25, seed=4)
    assert (first.train, first.validation) == (again.train, again.validation)
    assert first.validation != other.validation
    examples = {dataset.digest: dataset.examples for dataset in hub.datasets.find()}
    assert examples[first.validation or ""] == 5


def test_validation_may_be_a_file_or_nothing(hub: Hub, data: Path, tiny_folder: Path) -> None:
    given = spec_of(hub, [("a", "b"), ("c", "d")], base=tiny_folder, validation=data)
    assert {d.digest: d.examples for d in hub.datasets.find()}[given.validation or ""] == 20
    assert spec_of(hub, data, base=tiny_folder, validation=0.0).validation is None


def test_a_folder_brings_its_own_validation_unless_a_share_is_asked_for(
    hub: Hub, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    data.rename(folder / "train.jsonl")
    (folder / "validation.jsonl").write_text('{"prompt": "Who sings?", "completion": "The finch."}')
    own = spec_of(hub, folder, base=tiny_folder)
    share = spec_of(hub, folder, base=tiny_folder, validation=0.25)
    examples = {dataset.digest: dataset.examples for dataset in hub.datasets.find()}
    assert (examples[own.train], examples[own.validation or ""]) == (20, 1)
    assert (examples[share.train], examples[share.validation or ""]) == (15, 5)


def test_data_may_be_pairs_mappings_examples_or_the_name_of_a_stored_set(
    hub: Hub, data: Path, tiny_folder: Path
) -> None:
    pairs = [("Who sings?", "The finch."), ("Who eats?", "The finch.")]
    mappings = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    examples = [Example.of_pair(prompt, completion) for prompt, completion in pairs]
    digests = {spec_of(hub, given, base=tiny_folder, validation=0.0).train for given in (pairs, mappings, examples)}
    assert len(digests) == 1
    hub.datasets.add(data, name="birds-data")
    by_name = spec_of(hub, "birds-data", base=tiny_folder, validation=0.0)
    assert by_name.train == spec_of(hub, data, base=tiny_folder, validation=0.0).train


def test_arguments_win_over_the_preset(hub: Hub, data: Path, tiny_folder: Path) -> None:
    preset = hub.catalog.presets["legal"]
    as_it_is = spec_of(hub, data, base=tiny_folder, preset="legal")
    assert (as_it_is.lora, as_it_is.training, as_it_is.system) == (preset.lora, preset.training, preset.system)
    changed = spec_of(hub, data, base=tiny_folder, preset="legal", rank=8, epochs=7, system="Be brief.")
    assert (changed.lora.rank, changed.training.epochs, changed.system) == (8, 7, "Be brief.")
    assert changed.lora.alpha == preset.lora.alpha
    assert changed.training.learning_rate == preset.training.learning_rate


def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_stored(hub: Hub, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\nno json\n{"prompt": "c"}\n{"prompt": "", "completion": ""}\n')
    with pytest.raises(errors.InvalidSpec) as raised:
        hub.train(bad, adapter="../birds", base="nosuch", preset="legl", rank=0, learning_rat=1)
    text = str(raised.value)
    for part in ("'../birds'", "'legl'", "'legal'", "rank", "learning_rat", "learning_rate", "'nosuch'"):
        assert part in text
    for line in (2, 3, 4):
        assert f"line {line}" in text
    assert "line 1:" not in text
    assert "  rank: " in text  # and not `rank.constrained-int`, as pydantic calls the member of a union
    assert hub.jobs.find() == []
    assert hub.datasets.find() == []
    assert not list((hub.settings.home / "artifacts").rglob("*/*/*"))


def test_a_single_fault_keeps_its_own_kind(hub: Hub, data: Path, tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(errors.NotFound, match="did you mean 'style'"):
        hub.train(data, adapter="birds", base=tiny_folder, preset="styl")
    with pytest.raises(errors.NotFound, match=r"data\.jsonl"):
        hub.train(tmp_path / "dat.jsonl", adapter="birds", base=tiny_folder)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(errors.InvalidDataset, match="no rows"):
        hub.train(empty, adapter="birds", base=tiny_folder)


def test_module_names_are_checked_where_the_base_is_at_hand(hub: Hub, data: Path, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="q_proj"):
        hub.train(data, adapter="birds", base=tiny_folder, target_modules=("q_porj",))
    # A base that has to be fetched first is looked at by the worker.
    hub.train(data, adapter="birds", base="owner/model", target_modules=("q_porj",))


def test_early_stopping_needs_something_to_measure(hub: Hub, data: Path, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="patience"):
        hub.train(data, adapter="birds", base=tiny_folder, validation=0.0, patience=2)


def test_settings_that_cannot_work_with_the_data_are_refused_together(hub: Hub, data: Path, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        hub.train(data, adapter="birds", base=tiny_folder, warmup_steps=999, rank="auto", target_modules=("q_porj",))
    assert {problem.where for problem in caught.value.problems} == {
        "warmup_steps",
        "rank",
        "modules of the adapter, target_modules",
    }


def test_bases_are_found_by_name_folder_and_hub_id(hub: Hub, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    added = hub.bases.add(tiny_folder, name="tiny")
    assert spec_of(hub, data, base="tiny").base.source == str(tiny_folder)
    assert spec_of(hub, data, base=added.fingerprint).base.source == str(tiny_folder)
    assert spec_of(hub, data, base="owner/model", revision="v1").base.revision == "v1"
    with pytest.raises(errors.NotFound, match="did you mean 'tiny'"):
        hub.train(data, adapter="birds", base="tyny")
    with pytest.raises(errors.NotFound):
        hub.train(data, adapter="birds", base=tmp_path / "missing.gguf")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(errors.Incompatible, match="tokenizer"):
        hub.train(data, adapter="birds", base=empty)


def test_registering_a_base_again_keeps_the_name_that_was_chosen(hub: Hub, tiny_folder: Path) -> None:
    hub.bases.add(tiny_folder, name="tiny")
    assert hub.bases.add(tiny_folder).name == "tiny"
    assert hub.bases.add(tiny_folder, name="small").name == "small"
    assert len(hub.bases.find()) == 1


def test_a_key_submits_once(hub: Hub, data: Path, tiny_folder: Path) -> None:
    first = hub.train(data, adapter="birds", base=tiny_folder, idempotency_key="monday")
    again = hub.train(data, adapter="birds", base=tiny_folder, idempotency_key="monday")
    assert first.id == again.id
    with pytest.raises(errors.Conflict, match="monday"):
        hub.train(data, adapter="other", base=tiny_folder, idempotency_key="monday")


def test_a_purged_data_set_cannot_be_trained_on(hub: Hub, data: Path, tiny_folder: Path) -> None:
    dataset = hub.datasets.add(data, name="birds-data")
    content = reading.dump_examples(reading.read_examples(data))
    blobs = hub.settings.home / "artifacts" / "blobs"
    assert content in [blob.read_bytes() for blob in blobs.rglob("*") if blob.is_file()]
    assert hub.datasets.purge("birds-data").purged_at is not None
    assert content not in [blob.read_bytes() for blob in blobs.rglob("*") if blob.is_file()]
    assert hub.datasets.get(dataset.digest).examples == 20
    with pytest.raises(errors.Conflict, match="purged"):
        hub.train("birds-data", adapter="birds", base=tiny_folder)


def test_a_data_set_that_a_job_needs_is_not_purged(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.train(data, adapter="birds", base=tiny_folder, validation=0.0)
    assert isinstance(handle.spec, TrainSpec)
    with pytest.raises(errors.Conflict, match=handle.id):
        hub.datasets.purge(handle.spec.train)


def test_submitting_loads_neither_torch_nor_transformers(tmp_path: Path, tiny_folder: Path, valkey_url: str) -> None:
    code = (
        "import pathlib, sys\n"
        "from finch_hub import Hub, settings\n"
        "home, url, base = sys.argv[1:]\n"
        "with Hub(settings.load(home=pathlib.Path(home), broker_url=url)) as hub:\n"
        "    hub.train([('a', 'b'), ('c', 'd')], adapter='birds', base=base, preset='style')\n"
        "    hub.compose(['birds'], adapter='all', depends_on=[hub.jobs.find()[0].id])\n"
        "print(sorted({'torch', 'transformers', 'peft', 'rich'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home"), valkey_url, str(tiny_folder)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_job_asks_for_the_memory_that_it_is_estimated_to_need(hub: Hub, data: Path, tiny_folder: Path) -> None:
    def need(**options: object) -> int:
        return hub.train(data, adapter="birds", base=tiny_folder, **options).refresh().requirements.memory_bytes  # type: ignore[arg-type]

    assert 2**28 < need(batch_size=1) < need(batch_size=1024) < need(batch_size=1024, dtype="float32")
    assert need(requirements=Requirements(memory_bytes=12345)) == 12345, "who asks knows better"


def test_what_cannot_be_trained_together_is_refused(hub: Hub, data: Path, tiny_folder: Path) -> None:
    together = Requirements(together=True)
    with pytest.raises(errors.InvalidInput) as caught:
        hub.train(data, adapter="birds", base=tiny_folder, requirements=together, use_dora=True, packing=False)
    assert [problem.where for problem in caught.value.problems] == ["together", "together"]
    assert "use_dora" in str(caught.value)
    assert hub.train(data, adapter="birds", base=tiny_folder, requirements=together).refresh().requirements.together
