"""`finch-hub sweep`."""

from __future__ import annotations

from pathlib import Path

from support import registry

from finch_hub.registry.database import Database

from .conftest import Run


def test_sweep_submits_each_combination(run: Run, data: Path, tiny_folder: Path) -> None:
    varied = ("--rank", "4,8", "--learning-rate", "1e-4,3e-4", "--vary", 'target_modules=["attention","mlp"]')
    words = (
        "sweep",
        data,
        "--adapter",
        "birds",
        "--base",
        tiny_folder,
        *varied,
        "--epochs",
        1,
        "--set",
        "weight_decay=0.1",
    )
    ran = run(*words, "--detach")
    sweep_id = ran.out.strip()
    assert f"finch-hub jobs sweep {sweep_id} --wait" in ran.err
    jobs = run("jobs", "list", "--json").json
    assert len(jobs) == 8
    assert {job["spec"]["training"]["epochs"] for job in jobs} == {1}
    report = run("jobs", "sweep", sweep_id, "--json").json
    assert [list(point["settings"]) for point in report["points"]] == [["rank", "target_modules", "learning_rate"]] * 8
    table = run("jobs", "sweep", sweep_id).out
    assert f"Sweep {sweep_id} of birds" in table
    assert table.count("queued") == 8
    again = run(*words, "--detach", "--no-together", "--json").json
    assert again["id"] == sweep_id
    assert len(run("jobs", "list", "--json").json) == 8


def test_values_that_are_no_list_are_refused(run: Run, data: Path, tiny_folder: Path) -> None:
    words = ("sweep", data, "--adapter", "birds", "--base", tiny_folder)
    ran = run(*words, "--vary", "alpha=8", "--vary", "rank=[4,8]")
    assert ran.status == 2
    assert "rank has an option of its own" in ran.err
    ran = run(*words, "--vary", "weight_decay=8")
    assert ran.status == 2
    assert "--vary weight_decay: is not a JSON list" in ran.err
    ran = run(*words, "--rank", "4,x")
    assert ran.status == 2
    assert "'x' is neither a number nor auto" in ran.err
    assert run("jobs", "sweep", "abc").status == 3


def test_setting_that_is_given_twice_or_is_none_is_refused(run: Run, data: Path, tiny_folder: Path) -> None:
    words = ("sweep", data, "--adapter", "birds", "--base", tiny_folder)
    ran = run(*words, "--vary", "weight_decay=[0,0.1]", "--set", "weight_decay=0.2")
    assert ran.status == 2
    assert "--vary weight_decay: is given with --set, too (leave out one of them)" in ran.err
    for name in ("progress", "requirements", "self"):
        for option, value in (("--set", "1"), ("--vary", "[1,2]")):
            ran = run(*words, "--rank", "4,8", option, f"{name}={value}")
            assert ran.status == 2
            assert f"{option}: there is no setting {name}" in ran.err


def test_a_sweep_without_success_ends_as_a_failed_or_cancelled_job(
    run: Run, data: Path, tiny_folder: Path, database: Database
) -> None:
    sweep_id = run("sweep", data, "--adapter", "birds", "--base", tiny_folder, "--rank", "4,8", "--detach").out.strip()
    first, second = sorted(run("jobs", "list", "--json").json, key=lambda job: job["spec"]["lora"]["rank"])
    for job in (first, second):
        run("jobs", "cancel", job["id"])
    ran = run("jobs", "sweep", sweep_id, "--wait")
    assert ran.status == 6
    assert "No training has succeeded." in ran.out
    assert ran.err.count("cancelled") >= 2
    run("jobs", "retry", second["id"], "--detach")
    registry.fail(database, registry.claimed(database), "the disk is full")
    ran = run("jobs", "sweep", sweep_id, "--wait")
    assert ran.status == 5
    assert "the disk is full" in ran.err
