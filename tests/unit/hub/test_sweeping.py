"""Sweeps: which trainings they are, what is refused, and how they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from finch_hub import Hub, JobState, errors
from finch_hub.hub.sweeping import _OF_ALL, list_points
from finch_hub.specs.jobs import TrainOptions, TrainSpec
from finch_hub.specs.reading import ReadingOptions
from finch_hub.specs.sweeps import SweepOptions


def test_a_list_of_tuples_or_short_names_holds_the_modules_to_try() -> None:
    for tried in ([("q_proj", "v_proj"), ("q_proj",)], ["attention", "mlp"], ["attention", ("q_proj",)]):
        assert [point["target_modules"] for point in list_points({"target_modules": tried})] == tried


def test_points_are_all_combinations() -> None:
    points = list_points({"rank": [8, 16], "learning_rate": [1e-4, 3e-4], "epochs": 2, "ignore_columns": ["a", "b"]})
    same = {"epochs": 2, "ignore_columns": ["a", "b"]}
    assert points == [{**same, "rank": rank, "learning_rate": rate} for rank in (8, 16) for rate in (1e-4, 3e-4)]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rank": 8}, "no setting has several values"),
        ({"rank": [8]}, "no setting has several values"),
        ({"rank": []}, "rank: has no value to try"),
        ({"rank": [8, 16, 8]}, "rank: has a value twice"),
        ({"rank": [8, 16], "target_modules": ["q_proj", "v_proj"]}, "target_modules: may be one value or several"),
        ({"layers_to_transform": [0, 1]}, "layers_to_transform: may be one value or several"),
        ({"rank": [8, 16], "threads": [1, 2]}, "threads: is the same for all points"),
        ({"rank": list(range(1, 12)), "seed": list(range(10))}, "110 combinations"),
    ],
)
def test_lists_that_are_no_sweep_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=text):
        list_points(settings)


def test_options_are_those_of_a_training_with_lists() -> None:
    hints, single = get_type_hints(SweepOptions), get_type_hints(TrainOptions)
    assert hints.keys() == single.keys()
    for name, hint in hints.items():
        if name in _OF_ALL or name in get_type_hints(ReadingOptions):
            assert hint == single[name], name
            continue
        members = set(get_args(hint))
        (of_list,) = (member for member in members if get_origin(member) is list)
        (item,) = get_args(of_list)
        whole = single[name]
        assert item == whole, name
        parts = get_args(whole) if str(whole).startswith("typing.Union") or " | " in str(whole) else (whole,)
        assert members - {of_list} == set(parts), name


def test_points_learn_from_the_same_rows_and_one_request_is_one_sweep(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, validation=0.2, rank=[4, 8], seed=[0, 1])
    specs = [job.spec for job in handle.jobs()]
    assert all(isinstance(spec, TrainSpec) for spec in specs)
    trained = [spec for spec in specs if isinstance(spec, TrainSpec)]
    assert [(spec.lora.rank, spec.training.seed) for spec in trained] == [(4, 0), (4, 1), (8, 0), (8, 1)]
    assert len({(spec.train, spec.validation) for spec in trained}) == 1
    assert all(job.refresh().requirements.together for job in handle.jobs())
    assert all(job.refresh().requirements.memory_bytes for job in handle.jobs())
    again = hub.sweep(data, adapter="birds", base=tiny_folder, validation=0.2, rank=[4, 8], seed=[0, 1])
    assert (again.id, [job.id for job in again.jobs()]) == (handle.id, [job.id for job in handle.jobs()])
    assert hub.get_sweep(handle.id).jobs()[3].id == handle.jobs()[3].id
    assert repr(again) == f"SweepHandle(id='{handle.id}', adapter='birds', points=4)"
    report = handle.report()
    assert [point.settings for point in report.points] == [
        {"rank": rank, "seed": seed} for rank in (4, 8) for seed in (0, 1)
    ]
    assert (report.best, report.is_finished) == (None, False)


def test_a_point_that_cannot_train_beside_others_trains_alone(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, use_dora=[False, True])
    assert [job.refresh().requirements.together for job in handle.jobs()] == [True, False]
    alone = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8], together=False)
    assert not any(job.refresh().requirements.together for job in alone.jobs())


def test_a_cancelled_point_is_tried_again_by_the_same_request(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    handle.jobs()[0].cancel()
    assert [job.state for job in handle.jobs()] == [JobState.CANCELLED, JobState.QUEUED]
    again = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    assert [job.state for job in again.jobs()] == [JobState.QUEUED, JobState.QUEUED]
    assert len(hub.jobs.find()) == 3
    handle.cancel()
    assert [job.state for job in again.jobs()] == [JobState.CANCELLED, JobState.CANCELLED]
    with pytest.raises(errors.JobFailed, match="no training has succeeded"):
        again.best()


def test_a_sweep_whose_jobs_were_deleted_says_so(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    first, second = handle.jobs()
    first.cancel()
    hub.jobs.prune(keep=0)
    assert [job.id for job in handle.jobs()] == [second.id]
    assert len(handle.report().points) == 1
    second.cancel()
    hub.jobs.prune(keep=0)
    with pytest.raises(errors.NotFound, match="its jobs were deleted"):
        handle.report()


def test_a_point_that_was_tried_again_outlives_its_first_job(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    handle.jobs()[0].cancel()
    handle.resume()
    handle.jobs()[0].cancel()
    handle.resume()
    newest = [job.id for job in handle.jobs()]
    assert hub.jobs.prune(keep=0) == 2
    assert [job.id for job in hub.get_sweep(handle.id).jobs()] == newest
    again = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    assert [job.id for job in again.jobs()] == newest


def test_all_problems_of_a_sweep_are_reported_once_and_nothing_is_stored(
    hub: Hub, data: Path, tiny_folder: Path
) -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        hub.sweep(data, adapter="birds", base=tiny_folder, validation=0.0, rank=[0, 8], alpha=[8, 16])
    text = str(caught.value)
    assert text.count("rank") == 1
    assert "no examples are held out" in text
    assert hub.jobs.find() == []
    with pytest.raises(errors.NotFound, match="no sweep 'abc'"):
        hub.get_sweep("abc")
