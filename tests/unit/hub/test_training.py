"""Trainings: what is refused, with all problems at once, and what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.families import named, save_family

from finch_hub import Hub, JobState, Requirements, errors, settings
from finch_hub.registry import datasets
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import TrainSpec
from finch_hub.specs.reading import DataWarning

from .conftest import train_spec


def test_train_stores_its_data_by_hash(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.train(data, adapter="birds", base=tiny_folder)
    assert handle.state is JobState.QUEUED
    spec = handle.spec
    assert isinstance(spec, TrainSpec)
    stored = {dataset.digest: dataset.examples for dataset in hub.datasets.find()}
    assert spec.validation is not None
    assert stored == {spec.train: 18, spec.validation: 2}
    assert spec.base.source == str(tiny_folder)


def test_split_holds_out_other_rows_and_is_repeatable(hub: Hub, data: Path, tiny_folder: Path) -> None:
    first = train_spec(hub, data, base=tiny_folder, validation=0.25, seed=3)
    again = train_spec(hub, data, base=tiny_folder, validation=0.25, seed=3)
    other = train_spec(hub, data, base=tiny_folder, validation=0.25, seed=4)
    assert (first.train, first.validation) == (again.train, again.validation)
    assert first.validation != other.validation
    examples = {dataset.digest: dataset.examples for dataset in hub.datasets.find()}
    assert examples[first.validation or ""] == 5


def test_validation_accepts_a_file_or_zero(hub: Hub, data: Path, tiny_folder: Path) -> None:
    given = train_spec(hub, [("a", "b"), ("c", "d")], base=tiny_folder, validation=data)
    assert {d.digest: d.examples for d in hub.datasets.find()}[given.validation or ""] == 20
    assert train_spec(hub, data, base=tiny_folder, validation=0.0).validation is None


def test_folder_uses_its_validation_split_unless_a_share_is_given(
    hub: Hub, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    data.rename(folder / "train.jsonl")
    (folder / "validation.jsonl").write_text('{"prompt": "Who sings?", "completion": "The finch."}')
    own = train_spec(hub, folder, base=tiny_folder)
    with pytest.warns(DataWarning, match=r"files that are not of the train split: validation\.jsonl"):
        share = train_spec(hub, folder, base=tiny_folder, validation=0.25)
    added = hub.datasets.add(folder)
    assert (added.digest, added.validation and added.validation.digest) == (own.train, own.validation)
    examples = {dataset.digest: dataset.examples for dataset in hub.datasets.find()}
    assert (examples[own.train], examples[own.validation or ""]) == (20, 1)
    assert (examples[share.train], examples[share.validation or ""]) == (15, 5)


def test_arguments_override_the_preset(hub: Hub, data: Path, tiny_folder: Path) -> None:
    preset = hub.catalog.presets["legal"]
    as_it_is = train_spec(hub, data, base=tiny_folder, preset="legal")
    assert (as_it_is.lora, as_it_is.training, as_it_is.system) == (preset.lora, preset.training, preset.system)
    changed = train_spec(hub, data, base=tiny_folder, preset="legal", rank=8, epochs=7, system="Be brief.")
    assert (changed.lora.rank, changed.training.epochs, changed.system) == (8, 7, "Be brief.")
    assert changed.lora.alpha == preset.lora.alpha
    assert changed.training.learning_rate == preset.training.learning_rate


def test_train_reports_all_problems_at_once_and_stores_nothing(hub: Hub, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\nno json\n{"prompt": "c"}\n{"prompt": "", "completion": ""}\n')
    with pytest.raises(errors.InvalidSpec) as raised:
        hub.train(bad, adapter="../birds", base="nosuch", preset="legl", rank=0, learning_rat=1)  # type: ignore[call-arg]
    text = str(raised.value)
    for part in ("'../birds'", "'legl'", "'legal'", "rank", "learning_rat", "learning_rate", "'nosuch'"):
        assert part in text
    for line in (2, 3, 4):
        assert f"line {line}" in text
    assert "line 1:" not in text
    assert "  rank: " in text  # not `rank.constrained-int`, as pydantic calls a member of a union
    assert hub.jobs.find() == []
    assert hub.datasets.find() == []
    assert not list((hub.settings.home / "artifacts").rglob("*/*/*"))


def test_single_problem_keeps_its_error_type(hub: Hub, data: Path, tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(errors.NotFound, match="did you mean 'style'"):
        hub.train(data, adapter="birds", base=tiny_folder, preset="styl")
    with pytest.raises(errors.NotFound, match=r"data\.jsonl"):
        hub.train(tmp_path / "dat.jsonl", adapter="birds", base=tiny_folder)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(errors.InvalidDataset, match="no rows"):
        hub.train(empty, adapter="birds", base=tiny_folder)


def test_module_names_are_checked_if_the_base_is_local(hub: Hub, data: Path, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="q_proj"):
        hub.train(data, adapter="birds", base=tiny_folder, target_modules=("q_porj",))
    # The worker checks a base that must be downloaded first.
    hub.train(data, adapter="birds", base="owner/model", target_modules=("q_porj",))


@pytest.mark.usefixtures("parsing_here")
@pytest.mark.parametrize(
    ("family", "wanted", "message"),
    [
        (
            "qwen3-moe",
            "all-linear",
            r"experts of this base are fused \(mlp.experts.down_proj, mlp.experts.gate_up_proj\)",
        ),
        ("qwen3-moe", "mlp", r"name some of k_proj, lm_head, o_proj, q_proj, v_proj"),
        ("qwen3-moe", ("gate_proj",), "'gate_proj' names no linear module: the experts"),
        ("gpt2", ("q_proj",), r"did you mean c_proj\?"),
        ("gpt2", ("wte",), "'wte' is an embedding"),
        ("phi3", ("q_proj", "o_proj"), "'q_proj' names no linear module"),
        pytest.param("falcon-h1", "all-linear", "PEFT does not adapt 'out_proj'", marks=pytest.mark.slow),
        ("llama", ("embed_tokens",), "'embed_tokens' is an embedding"),
    ],
)
def test_targets_that_the_base_in_memory_lacks_are_refused_at_submission(
    family: str, wanted: str | tuple[str, ...], message: str, hub: Hub, data: Path, tmp_path: Path
) -> None:
    base = save_family(named(family), tmp_path / family)
    with pytest.raises(errors.InvalidSpec, match=message):
        hub.train(data, adapter="birds", base=base, target_modules=wanted)
    assert hub.jobs.find() == []


def test_the_head_is_a_target_but_not_of_a_group(hub: Hub, data: Path, tiny_folder: Path) -> None:
    targets = ("q_proj", "lm_head")
    assert train_spec(hub, data, base=tiny_folder, target_modules=targets).lora.target_modules == targets
    with pytest.raises(errors.InvalidSpec, match="adapter of the head cannot be combined with together"):
        hub.train(
            data, adapter="birds", base=tiny_folder, target_modules=targets, requirements=Requirements(together=True)
        )


def test_early_stopping_without_validation_is_refused(hub: Hub, data: Path, tiny_folder: Path) -> None:
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


def test_train_requires_the_memory_that_it_is_estimated_to_need(hub: Hub, data: Path, tiny_folder: Path) -> None:
    def need(**options: Any) -> int:
        return hub.train(data, adapter="birds", base=tiny_folder, **options).refresh().requirements.memory_bytes

    assert 2**28 < need(batch_size=1) < need(batch_size=1024) < need(batch_size=1024, dtype="float32")
    assert need(requirements=Requirements(memory_bytes=12345)) == 12345, (
        "an explicit requirement overrides the estimate"
    )


def test_settings_that_rule_out_together_are_refused(hub: Hub, data: Path, tiny_folder: Path) -> None:
    together = Requirements(together=True)
    with pytest.raises(errors.InvalidInput) as caught:
        hub.train(data, adapter="birds", base=tiny_folder, requirements=together, use_dora=True, packing=False)
    assert [problem.where for problem in caught.value.problems] == ["together", "together"]
    assert "use_dora" in str(caught.value)
    assert hub.train(data, adapter="birds", base=tiny_folder, requirements=together).refresh().requirements.together


def test_options_of_reading_reach_the_data_and_the_job(hub: Hub, tiny_folder: Path) -> None:
    rows = [{"q": f"Question {n}?", "a": f"Answer {n}.", "id": n} for n in range(39)] + [{"q": "", "a": "x", "id": 1}]
    columns = {"prompt_column": "q", "completion_column": "a"}
    with pytest.warns(DataWarning):
        spec = train_spec(hub, rows, base=tiny_folder, validation=0.0, max_bad_rows=0.5, **columns)
    pairs = [(row["q"], row["a"]) for row in rows[:39]]
    assert spec.train == train_spec(hub, pairs, base=tiny_folder, validation=0.0).train
    assert spec.training.max_bad_rows == 0.5
    assert spec.reading is not None
    assert (spec.reading.rows, spec.reading.left_out, spec.reading.unused) == (40, 1, {"id": 39})
    with pytest.raises(errors.InvalidDataset, match="id: is not used, in 39 rows"):
        train_spec(hub, rows[:39], base=tiny_folder, strict=True, **columns)
    assert train_spec(hub, pairs, base=tiny_folder, strict=True).training.strict


def test_limit_of_the_settings_reaches_the_job(tiny_folder: Path, tmp_path: Path, valkey_url: str) -> None:
    with Hub(settings.load(home=tmp_path / "home", broker_url=valkey_url, max_bad_rows=0.2)) as hub:
        assert train_spec(hub, [("a", "b"), ("c", "d")], base=tiny_folder).training.max_bad_rows == 0.2


def test_limits_of_a_preset_hold_for_reading_and_training(
    hub: Hub, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"{n}", "completion": "b"} for n in range(8)] + [{"prompt": "a", "completion": ""}]
    with pytest.raises(errors.InvalidDataset, match=r"more than max_bad_rows=0\.05 allows"):
        train_spec(hub, rows, base=tiny_folder, preset="legal")
    legal = hub.catalog.presets["legal"]
    for limits, needle in (({"max_bad_rows": 0.2}, ""), ({"strict": True}, "strict=True")):
        preset = legal.model_copy(update={"training": legal.training.evolve(**limits)})
        monkeypatch.setitem(hub.catalog.presets._builtin, "legal", preset)
        if needle:
            with pytest.raises(errors.InvalidDataset, match=needle):
                train_spec(hub, rows, base=tiny_folder, preset="legal", max_bad_rows=0.5)
        else:
            with pytest.warns(DataWarning):
                assert train_spec(hub, rows, base=tiny_folder, preset="legal").training.max_bad_rows == 0.2


@pytest.mark.parametrize("share", ["0.2", "20%", ".5", "12,5 %"])
def test_share_that_is_a_text_is_refused(hub: Hub, data: Path, tiny_folder: Path, share: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"is neither data nor a number .write a share"):
        train_spec(hub, data, base=tiny_folder, validation=share)


def test_validation_file_has_the_same_columns(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.csv").write_text(f"q;a\n{name}?;Yes.\n", encoding="utf-8")
    with pytest.warns(DataWarning, match="semicolon"):
        spec = train_spec(
            hub,
            tmp_path / "train.csv",
            base=tiny_folder,
            validation=tmp_path / "held_out.csv",
            prompt_column="q",
            completion_column="a",
        )
    assert {d.digest: d.examples for d in hub.datasets.find()} == {spec.train: 1, spec.validation: 1}


def test_columns_are_those_of_the_file_beside_a_stored_data_set(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("ask,say\n" + "".join(f"Question {n}?,Answer {n}.\n" for n in range(20)))
    hub.datasets.add([("Why?", "Because."), ("How?", "So.")], name="known")
    columns = {"prompt_column": "ask", "completion_column": "say"}
    for data, validation in ((table, "known"), ("known", table)):
        spec = train_spec(hub, data, base=tiny_folder, validation=validation, **columns)
        assert spec.validation is not None
    hub.datasets.add([("Who?", "She.")], name="other")
    with pytest.raises(errors.InvalidDataset, match="is stored, so that"):
        hub.train("known", adapter="birds", base=tiny_folder, validation="other", prompt_column="ask")


def test_mapping_of_splits_brings_its_validation_data(hub: Hub, tiny_folder: Path) -> None:
    splits = {"train": [("a", "b"), ("c", "d")], "validation": [("e", "f")], "test": [("g", "h")]}
    with pytest.warns(DataWarning, match="splits that were not read: test"):
        spec = train_spec(hub, splits, base=tiny_folder)
    assert {d.digest: d.examples for d in hub.datasets.find()} == {spec.train: 2, spec.validation: 1}


def test_problems_of_the_data_are_told_beside_those_of_other_options(hub: Hub, tiny_folder: Path) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        hub.train([{"x": "a"}], adapter="birds", base=tiny_folder, rank=0, delimiter=";;", encoding="utf9")
    text = str(caught.value)
    for needle in ("rank", "';;' is not one character", "'utf9' is not a known encoding", "fits no format"):
        assert needle in text


def test_secret_in_a_system_prompt_is_warned_of_and_not_changed(hub: Hub, data: Path, tiny_folder: Path) -> None:
    system = "Log in with password=SECRETpw1."
    match = r"^the system prompt has what looks like a secret, .* \(leave secrets out; cards, .*\)$"
    with pytest.warns(errors.FinchWarning, match=match):
        spec = train_spec(hub, data, base=tiny_folder, system=system)
    assert spec.system == system


def test_halves_of_a_stored_data_set_are_made_of_it_and_its_validation_data_is_not(
    hub: Hub, data: Path, tiny_folder: Path, database: Database
) -> None:
    whole, held = hub.datasets.add(data, name="birds"), hub.datasets.add([("Who?", "A wren.")], name="held")
    halves = train_spec(hub, "birds", base=tiny_folder)
    train_spec(hub, "birds", base=tiny_folder, validation="held")
    with database.read() as session:
        assert sorted(datasets.list_made(session, [whole.digest])) == sorted(
            [whole.digest, halves.train, halves.validation or ""]
        )
        assert datasets.list_made(session, [held.digest]) == [held.digest]
