"""`finch-hub train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from finch_hub.registry.database import Database

from .conftest import Run, enter_worker

# The command line shows these warnings, which are errors in tests.
pytestmark = pytest.mark.filterwarnings("default::finch_hub.specs.reading.DataWarning")


def test_train_passes_every_option_to_the_job(run: Run, data: Path, tiny_folder: Path) -> None:
    options = ("--preset", "style", "--rank", 8, "--epochs", 1, "--target-modules", "q_proj,v_proj", "--seed", 3)
    more = ("--set", "weight_decay=0.1", "--set", 'rank_pattern={"q_proj": 4}', "--validation", "0.2", "--priority", 5)
    words = ("train", data, "--adapter", "birds", "--base", tiny_folder, *options, *more, "--detach", "--json")
    job = run(*words).json
    assert (job["state"], job["priority"], job["spec"]["preset"]) == ("queued", 5, "style")
    lora, training = job["spec"]["lora"], job["spec"]["training"]
    assert (lora["rank"], lora["target_modules"], lora["rank_pattern"]) == (8, ["q_proj", "v_proj"], {"q_proj": 4})
    assert (training["epochs"], training["seed"], training["weight_decay"], training["validation"]) == (1, 3, 0.1, 0.2)


def test_train_names_every_invalid_line(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n{"prompt"\n[]\n')
    ran = run("train", bad, "--adapter", "birds", "--base", tiny_folder)
    assert ran.status == 2
    assert "line 2" in ran.err
    assert "line 3" in ran.err
    assert run("jobs", "list", "--json").json == []


def test_invalid_settings_are_refused(run: Run, data: Path) -> None:
    ran = run("train", data, "--adapter", "a", "--base", "b", "--set", "epochs", "--set", "adapter=c")
    assert ran.status == 2
    assert "'epochs' is not a setting (write NAME=VALUE)" in ran.err
    assert "adapter has an option of its own" in ran.err


def test_setting_of_another_type_is_refused(run: Run, data: Path, tiny_folder: Path) -> None:
    words = ("train", data, "--adapter", "a", "--base", tiny_folder)
    ran = run(*words, "--set", "gradient_accumulation=true", "--set", "packing=1")
    assert ran.status == 2
    assert "gradient_accumulation: cannot be true or false" in ran.err
    assert "packing: is neither true nor false" in ran.err


def test_argument_of_the_hub_is_no_setting(run: Run, data: Path, tiny_folder: Path) -> None:
    for name in ("progress", "requirements", "self"):
        ran = run("train", data, "--adapter", "birds", "--base", tiny_folder, "--set", f"{name}=1")
        assert ran.status == 2
        assert f"--set: there is no setting {name}" in ran.err


def test_requirements_reach_the_job(run: Run, data: Path, tiny_folder: Path) -> None:
    train = ("train", data, "--adapter", "birds", "--base", tiny_folder, "--detach", "--json")
    asked = ("--queue", "night", "--label", "a100", "--device", "cpu", "--memory-bytes", "1.5G", "--time-limit", "30m")
    assert run(*train, *asked, "--together").json["requirements"] == {
        "queue": "night",
        "device": "cpu",
        "memory_bytes": 1_500_000_000,
        "is_memory_estimated": False,
        "labels": ["a100"],
        "time_limit": 1800.0,
        "together": True,
    }
    for option, value in (("--time-limit", "soon"), ("--memory-bytes", "3x"), ("--queue", "../x")):
        refused = run(*train, option, value)
        assert refused.status == 2, refused
        assert "Traceback" not in refused.err


def test_submit_without_a_fitting_worker_warns(run: Run, database: Database, data: Path, tiny_folder: Path) -> None:
    enter_worker(database)
    ran = run("train", data, "--adapter", "birds", "--base", tiny_folder, "--detach", "--queue", "night")
    assert ran.status == 0
    assert "worker gpu-1 cannot run this job: it does not serve queue 'night'" in ran.err


def test_options_of_reading_reach_the_data(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    file = tmp_path / "tickets.txt"
    file.write_bytes("frage|antwort\nWo?|Köln.\nWann?|Heute.\n".encode("latin-1"))
    columns = ("--prompt-column", "frage", "--completion-column", "antwort", "--max-bad-rows", 0.2)
    train = ("train", file, "--adapter", "birds", "--base", tiny_folder, "--detach", "--json", "--strict")
    job = run(*train, *columns, "--encoding", "latin-1", "--delimiter", "|", "--file-format", "csv").json
    assert job["spec"]["training"]["max_bad_rows"] == 0.2
    assert job["spec"]["training"]["strict"]
    assert job["spec"]["reading"]["rows"] == 2
    assert len(run("datasets", "list", "--json").json) == 2


def test_dry_run_shows_the_data_and_stores_nothing(run: Run, data: Path, tiny_folder: Path) -> None:
    words = ("train", data, "--adapter", "birds", "--base", tiny_folder, "--epochs", 2, "--dry-run")
    shown = run(*words)
    assert shown.status == 0, shown.err
    assert "9 training examples, 1 for validation" in shown.out
    assert "[[Answer" in shown.out
    assert "Nothing was stored or submitted." in shown.out
    preview = run(*words, "--json").json
    assert preview["training"]["epochs"] == 2
    assert preview["memory_bytes"] > 0
    assert run("jobs", "list", "--json").json == []
    assert run("datasets", "list", "--json").json == []


@pytest.mark.parametrize(
    "words",
    [
        ("--priority", 3),
        ("--depends-on", "last"),
        ("--idempotency-key", "k"),
        ("--queue", "night"),
        ("--label", "a100"),
        ("--time-limit", "1h"),
        ("--detach",),
    ],
)
def test_dry_run_refuses_options_that_it_does_not_use(run: Run, words: tuple[object, ...]) -> None:
    ran = run("train", "d", "--adapter", "a", "--base", "b", "--dry-run", *words)
    assert ran.status == 2
    assert f"--dry-run submits no job: leave out {words[0]}" in ran.err


def test_dry_run_of_a_file_passes_over_what_it_does_not_use(
    run: Run, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f"data = '{data}'\nadapter = 'birds'\nbase = '{tiny_folder}'\npriority = 3\nmemory_bytes = 5e9")
    assert run("train", "--config", file, "--dry-run", "--quiet", "--json").json["memory_bytes"] == 5 * 10**9
