"""`finch-hub sweep`."""

from __future__ import annotations

from pathlib import Path

from support import registry
from support.evidence import make_training

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


def test_sweep_by_the_file_of_a_training_tries_other_values(
    run: Run, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    words = ("--adapter", "birds", "--base", tiny_folder, "--target-modules", "q_proj,o_proj", "--dropout", "0.1")
    job = run("train", data, *words, "--set", "weight_decay=0.1", "--memory-bytes", "5G", "--detach").out.strip()
    file = tmp_path / "run.toml"
    file.write_text(run("jobs", "show", job, "--config").out)
    ran = run("sweep", "--config", file, "--rank", "4,8", "--detach", "--json")
    assert ran.status == 0, ran.err
    assert [point["settings"] for point in ran.json["points"]] == [{"rank": 4}, {"rank": 8}]
    spec, required = (run("jobs", "show", "last", "--json").json[name] for name in ("spec", "requirements"))
    assert spec["lora"]["target_modules"] == ["q_proj", "o_proj"]
    assert (spec["lora"]["dropout"], spec["training"]["weight_decay"]) == (0.1, 0.1)
    assert required["memory_bytes"] == 5 * 10**9


def test_file_of_a_sweep_has_lists_of_values(run: Run, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    settings = ["rank = [4, 8]", "epochs = 1", "exclude_modules = ['lm_head']", "[vary]", "weight_decay = [0, 0.1]"]
    file.write_text("\n".join([f"data = '{data}'", "adapter = 'birds'", f"base = '{tiny_folder}'", *settings]))
    ran = run("sweep", "--config", file, "--detach", "--json")
    assert ran.status == 0, ran.err
    assert len(ran.json["points"]) == 4
    assert run("jobs", "show", "last", "--json").json["spec"]["lora"]["exclude_modules"] == ["lm_head"]
    file.write_text("rank = [true]\nmax_stepz = 1")
    ran = run("sweep", "--config", file)
    assert ran.status == 2
    assert "rank: is not a list of values" in ran.err
    assert "did you mean max_steps" in ran.err


def test_value_of_a_file_gives_way_to_the_values_to_try(
    run: Run, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    job = run("train", data, "--adapter", "birds", "--base", tiny_folder, "--set", "weight_decay=0.1", "--detach").out
    file = tmp_path / "run.toml"
    file.write_text(run("jobs", "show", job.strip(), "--config").out)
    assert "weight_decay = 0.1" in file.read_text()
    ran = run("sweep", "--config", file, "--vary", "weight_decay=[0,0.1]", "--detach", "--json")
    assert ran.status == 0, ran.err
    assert [point["settings"] for point in ran.json["points"]] == [{"weight_decay": 0.0}, {"weight_decay": 0.1}]


def test_quiet_sweep_prints_versions_only_the_lowest_loss_first(
    run: Run, data: Path, tiny_folder: Path, database: Database
) -> None:
    words = ("sweep", data, "--adapter", "birds", "--base", tiny_folder, "--rank", "4,8,16", "--detach", "--quiet")
    sweep_id = run(*words).out.strip()
    assert run("jobs", "sweep", sweep_id, "--quiet").out == ""
    report = make_training(None).training
    assert report is not None
    assert report.after is not None
    for number, loss in enumerate((1.6, 1.5), 1):
        trained = report.evolve(after=report.after.evolve(loss=loss))
        made = {"adapter": f"birds/{number}", "report": trained.model_dump(mode="json")}
        registry.succeed(database, registry.claimed(database), **made)
    assert run("jobs", "sweep", sweep_id, "--quiet").out == "birds/2\nbirds/1\n"


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
