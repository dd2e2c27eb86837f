"""Sweeps: which trainings they are, what is refused, and how they go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from support import registry

from finch_hub import Hub, JobState, SweepHandle, errors
from finch_hub.display import tables
from finch_hub.display.progress import View
from finch_hub.hub.sweeping import _OF_ALL, explain_failure, list_points
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import TrainOptions, TrainSpec
from finch_hub.specs.reading import ReadingOptions
from finch_hub.specs.sweeps import SweepOptions, SweepPoint, SweepReport


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
    assert again.settings == {1 + 2 * n + seed: {"rank": (4, 8)[n], "seed": seed} for n in (0, 1) for seed in (0, 1)}
    assert "  settings  {1: {'rank': 4, 'seed': 0}, 2: {'rank': 4, 'seed': 1}, " in repr(again)
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
    with pytest.raises(errors.JobCancelled, match=again.jobs()[0].id):
        again.best()


def test_waiting_shows_each_training_on_one_bar(
    hub: Hub, database: Database, data: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.console.cache_clear()
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8, 16])
    first, second, third = handle.jobs()
    third.cancel()

    def work() -> None:
        for number in (1, 2):
            job = registry.claimed(database)
            figures = {"step": 1, "steps": 2, "loss": 1.5, "learning_rate": 1e-3, "epoch": 0.5}
            told = [NewEvent(type="progress", data=figures), NewEvent(type="message", message="a detail")]
            told += [NewEvent(type="message", level="warn", message="one row is cut")]
            with database.write() as session:
                attempts.append_events(session, job, told)
            time.sleep(1.0)
            registry.fail(database, job, f"the disk is full {number}")

    with ThreadPoolExecutor(1) as worker:
        worked = worker.submit(work)
        try:
            report = handle.wait(timeout=60.0, progress=True)
        finally:
            worked.result()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [f"- sweep {handle.id}: 3 trainings", "- 1 of 3: rank=4"]
    ends = [line for line in lines if " of 3: " in line and not line.startswith("-")]
    assert ends == [
        "  1 of 3: rank=4: failed the disk is full 1",
        "  2 of 3: rank=8: failed the disk is full 2",
        "  3 of 3: rank=16: cancelled",
    ]
    assert [line.strip() for line in lines if "row is cut" in line] == ["warning: one row is cut"]
    assert any(line.startswith("  step 1/2") for line in lines)
    assert not any("a detail" in line or "loss" in line for line in lines)
    assert [point.job for point in report.points] == [first.id, second.id, third.id]
    with pytest.raises(errors.JobFailed, match="disk is full 1"):
        handle.best()


class Script(View):
    """View that keeps the lines. It acts after some of them, and each training that begins fails."""

    is_silent = False

    def __init__(self, database: Database, actions: dict[str, Callable[[], object]]) -> None:
        self._database, self._actions, self.lines = database, actions, list[str]()

    def show(self, event: NewEvent) -> None:
        if event.type == "phase":
            registry.fail(self._database, registry.claimed(self._database), "the disk is full again")

    def write(self, line: Any) -> None:
        if not line.startswith("warning: no worker"):
            self.lines.append(line.strip())
        for start in [start for start in self._actions if line.strip().startswith(start)]:
            self._actions.pop(start)()


def fail_next(database: Database) -> None:
    registry.fail(database, registry.claimed(database), "the disk is full")


def test_waiting_includes_a_point_that_is_tried_again_after_its_turn(
    hub: Hub, database: Database, data: Path, tiny_folder: Path
) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    fail_next(database)
    handle.jobs()[1].cancel()
    script = Script(database, {"1 of 2": lambda: handle.jobs()[0].retry()})
    report = handle.wait(timeout=60.0, view=script)
    assert report.is_finished
    assert script.lines[1:] == [
        "1 of 2: rank=4: failed the disk is full",
        "2 of 2: rank=8: cancelled",
        "1 of 2: rank=4: failed the disk is full again",
    ]
    with pytest.raises(errors.JobFailed, match=handle.jobs()[0].id):
        handle.best()


def test_waiting_goes_on_when_ended_points_are_pruned(
    hub: Hub, database: Database, data: Path, tiny_folder: Path
) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8, 16])
    for _ in range(2):
        fail_next(database)
    script = Script(database, {"- sweep": lambda: hub.jobs.prune(keep=0)})
    report = handle.wait(timeout=60.0, view=script)
    assert [point.number for point in report.points] == [3]
    assert script.lines == [f"- sweep {handle.id}: 3 trainings", "3 of 3: rank=16: failed the disk is full again"]
    again = Script(database, {})
    handle.wait(timeout=60.0, view=again)
    assert again.lines == [f"- sweep {handle.id}: 1 training", "1 of 1: rank=16: failed the disk is full again"]


def test_a_failure_is_told_before_what_has_not_ended() -> None:
    queued = SweepPoint(number=1, settings={}, job="first", state=JobState.QUEUED)
    failed = SweepPoint(number=2, settings={}, job="second", state=JobState.FAILED, reason="the disk is full")
    told = explain_failure(SweepReport(id="s", adapter="birds", points=(queued, failed)))
    assert str(told) == "job second failed: the disk is full"


def test_waiting_for_a_sweep_ends_after_its_timeout(hub: Hub, data: Path, tiny_folder: Path) -> None:
    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    with pytest.raises(TimeoutError, match="queued"):
        handle.wait(timeout=0.1)


@pytest.mark.parametrize("wait", [SweepHandle.wait, SweepHandle.best])
def test_ctrl_c_says_how_to_go_on_with_the_whole_sweep_and_cancels_nothing(
    wait: Callable[[SweepHandle], object],
    hub: Hub,
    data: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    handle = hub.sweep(data, adapter="birds", base=tiny_folder, rank=[4, 8])
    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wait(handle)
    told = capsys.readouterr().err
    assert f"Stopped waiting for sweep {handle.id}." in told
    assert f'hub.get_sweep("{handle.id}").wait()' in told
    assert f'hub.get_sweep("{handle.id}").cancel()' in told
    assert "hub.jobs[" not in told
    assert not any(job.refresh().cancel_requested for job in handle.jobs())


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
    assert [job.id for job in handle.jobs()] == newest
    assert [point.job for point in handle.report().points] == newest
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
