"""The commands: what they hand to the hub, and what they print."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import get_args

import pytest
from support import registry
from support.adapters import save_adapter

from finch_hub.cli import jobs as job_commands
from finch_hub.registry import schema, values, workers
from finch_hub.registry.database import Database

from .conftest import Run


@pytest.fixture
def database(home: Path, run: Run) -> Database:
    assert run("jobs", "list").status == 0  # makes it
    return Database(f"sqlite:///{home / 'finch.db'}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(f'{{"prompt": "Question {n}?", "completion": "Answer {n}."}}\n' for n in range(10)))
    return file


def enter_worker(database: Database) -> None:
    """Enter a worker of this host, which has a processor and serves the default queue."""
    device = values.Device(kind="cpu", name="some cpu", memory_bytes=2**40, free_bytes=2**39)
    with database.write() as session:
        workers.register(
            session,
            "gpu-1",
            hostname=socket.gethostname(),
            pid=1,
            version="0",
            schema_revision=schema.HEAD,
            devices=[device],
        )


def test_train_hands_every_option_on(run: Run, data: Path, tiny_folder: Path) -> None:
    options = ("--preset", "style", "--rank", 8, "--epochs", 1, "--target-modules", "q_proj,v_proj", "--seed", 3)
    more = ("--set", "weight_decay=0.1", "--set", 'rank_pattern={"q_proj": 4}', "--validation", "0.2", "--priority", 5)
    words = ("train", data, "--adapter", "birds", "--base", tiny_folder, *options, *more, "--detach", "--json")
    job = run(*words).json
    assert (job["state"], job["priority"], job["spec"]["preset"]) == ("queued", 5, "style")
    lora, training = job["spec"]["lora"], job["spec"]["training"]
    assert (lora["rank"], lora["target_modules"], lora["rank_pattern"]) == (8, ["q_proj", "v_proj"], {"q_proj": 4})
    assert (training["epochs"], training["seed"], training["weight_decay"], training["validation"]) == (1, 3, 0.1, 0.2)


def test_train_names_every_bad_line(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n{"prompt"\n[]\n')
    ran = run("train", bad, "--adapter", "birds", "--base", tiny_folder)
    assert ran.status == 2
    assert "line 2" in ran.err
    assert "line 3" in ran.err
    assert run("jobs", "list", "--json").json == []


def test_settings_are_checked_before_the_hub_is_asked(run: Run, data: Path) -> None:
    ran = run("train", data, "--adapter", "a", "--base", "b", "--set", "epochs", "--set", "adapter=c")
    assert ran.status == 2
    assert "'epochs' is no setting (write name=value)" in ran.err
    assert "adapter has an option of its own" in ran.err


def test_compose_wants_a_name_unless_it_only_plans(run: Run) -> None:
    ran = run("compose", "a", "b")
    assert ran.status == 2
    assert "--adapter" in ran.err


def test_a_plan_refuses_what_it_would_leave_out(run: Run) -> None:
    ran = run("compose", "medical", "legal", "--plan", "--weights", "1,2", "--min-retention", "0.5")
    assert ran.status == 2
    assert "leave out --weights, --min-retention" in ran.err


def test_a_plan_is_drawn_and_printed_as_json(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    assert run("bases", "add", tiny_folder, "--name", "tiny").status == 0
    for seed, name in enumerate(("first", "second")):
        made = save_adapter(tiny_folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"])
        assert run("adapters", "import", made, "--name", name, "--base", "tiny").out == f"{name}/1 (ready)\n"
    drawn = run("compose", "first", "second", "--plan").out
    assert "first/1 + second/1" in drawn
    assert "sign conflict" in drawn
    report = run("compose", "first", "second", "--plan", "--json").json
    assert [(pair["first"], pair["second"]) for pair in report["pairs"]] == [("first/1", "second/1")]


def test_composition_options_reach_the_job(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    registry.add_version(database, "legal")
    options = ("--weights", "1,0.5", "--strategy", "ties", "--parameter", "density=0.3", "--rank", "auto")
    words = ("compose", "medical", "legal", "--adapter", "both", *options, "--min-retention", 0.8, "--detach", "--json")
    spec = run(*words).json["spec"]
    assert [parent["weight"] for parent in spec["parents"]] == [1.0, 0.5]
    assert (spec["strategy"], spec["parameters"], spec["rank"]) == ("ties", {"density": 0.3}, "auto")
    assert spec["min_retention"] == 0.8
    assert run("compose", "a", "b", "--adapter", "c", "--weights", "1,two").status == 2
    ran = run("compose", "medical", "legal", "--adapter", "c", "--weights", "1,nan")
    assert (ran.status, ran.err) == (2, "error: weight of legal: nan is not a finite number\n")


def test_the_other_jobs_are_submitted(run: Run, database: Database, data: Path, tmp_path: Path) -> None:
    registry.add_version(database, "medical")
    for words in (
        ("merge", "medical", "--out", tmp_path / "merged"),
        ("merge", "medical", "--out", tmp_path, "--replace"),
        ("export", "medical", "--out", tmp_path / "exported", "--format", "vllm"),
        ("export", "medical", "--out", tmp_path, "--replace"),
        ("quantize", "medical", "--scheme", "int8"),
        ("eval", data, "--adapter", "medical", "--evaluator", "exact_answer"),
    ):
        ran = run(*words, "--detach")
        assert ran.status == 0, ran.err
        assert ran.out.strip() == run("jobs", "list", "--json").json[0]["id"]
        assert "queued; follow it: finch-hub jobs watch" in ran.err
    kinds = [job["kind"] for job in run("jobs", "list", "--json").json]
    assert kinds == ["evaluate", "quantize", "export", "export", "merge", "merge"]
    assert run("merge", "medical", "--out", tmp_path).status == run("export", "medical", "--out", tmp_path).status == 2
    listed = run("jobs", "list", "--state", "queued", "--kind", "merge").out
    assert f"medical in {tmp_path / 'merged'}" in listed


def test_a_job_is_shown_cancelled_and_retried(run: Run, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "medical")
    job = run("merge", "medical", "--out", tmp_path / "merged", "--detach", "--json").json
    assert "no worker is alive" in run("jobs", "show", job["id"]).out
    assert run("jobs", "cancel", job["id"]).out == f"{job['id']} cancelled\n"
    shown = run("jobs", "show", job["id"])
    assert "cancelled" in shown.out
    assert run("jobs", "show", job["id"], "--json").json["attempts"] == []
    assert run("jobs", "watch", job["id"]).status == 6
    states = [json.loads(line)["data"]["state"] for line in run("jobs", "events", job["id"], "--json").out.splitlines()]
    assert states == ["queued", "cancelled"]
    again = run("jobs", "retry", job["id"], "--detach", "--json").json
    assert again["id"] != job["id"]
    assert run("jobs", "retry", again["id"]).status == 4
    assert run("jobs", "prune").status == 2
    assert run("jobs", "prune", "--days", 1).out == "0 jobs deleted\n"
    assert run("jobs", "prune", "--keep", 0).out == "1 job deleted\n"


def test_adapters_are_listed_shown_tagged_and_pointed_at(run: Run, database: Database) -> None:
    metrics = {"loss_before": 3.0, "loss_after": 2.0, "rank": 16}
    registry.add_version(database, "medical", metrics=metrics)
    registry.add_version(database, "medical", metrics=metrics, digest=registry.digest("2"))
    assert "loss 3.000 -> 2.000" in run("adapters", "list").out
    assert run("adapters", "alias", "medical/1", "best").out == "medical@best -> medical/1\n"
    assert run("adapters", "alias", "medical/1", "best").out == "medical@best -> medical/1\n"
    assert run("adapters", "alias", "medical/2", "best", "--expected", 2).status == 4
    assert run("adapters", "tag", "medical@best", "gold", "checked").out == "medical/1: checked, gold\n"
    assert run("adapters", "tag", "medical/1", "gold", "--remove").out == "medical/1: checked\n"
    (listed,) = run("adapters", "list", "--json").json
    assert (listed["newest"]["number"], listed["aliases"]) == (2, {"best": 1})
    assert [version["number"] for version in run("adapters", "versions", "medical", "--json").json] == [2, 1]
    assert "medical/2" in run("adapters", "lineage", "medical").out
    assert run("adapters", "delete", "medical/1").status == 4  # an alias points at it
    assert run("adapters", "alias", "medical", "best", "--delete").status == 0
    assert run("adapters", "delete", "medical/1").status == 0
    assert run("adapters", "alias", "medical/2", "latest").status == 2


def test_data_sets_are_added_listed_and_purged(run: Run, data: Path) -> None:
    assert run("datasets", "add", data, "--name", "birds").out == "birds: 10 examples\n"
    assert "birds" in run("datasets", "list").out
    assert run("datasets", "purge", "birds").status == 0
    (purged,) = run("datasets", "list", "--json").json
    assert purged["purged_at"] is not None


def test_plugins_are_listed_by_kind_and_shown(run: Run) -> None:
    offers = run("plugins", "list", "--kind", "preset", "--json").json["offers"]
    assert {"medical", "legal", "code", "style"} <= {offer["name"] for offer in offers}
    shown = run("plugins", "show", "preset", "medical").out
    assert "reasons.lora.rank" in shown
    assert "density" in run("plugins", "show", "strategy", "ties").out
    assert run("plugins", "show", "preset", "medicla").status == 3


def test_the_database_is_upgraded_and_checked(run: Run) -> None:
    assert run("db", "check").status == 7
    assert "empty ->" in run("db", "upgrade").out
    assert "already at" in run("db", "upgrade").out
    assert run("db", "check", "--json").json["revision"]


def test_workers_are_listed_and_told(run: Run, database: Database) -> None:
    device = values.Device(kind="cpu", name="some cpu", memory_bytes=2**33, free_bytes=2**32)
    with database.write() as session:
        workers.register(
            session, "box", hostname="box", pid=1, version="0", schema_revision="0001", devices=[device], labels=("a",)
        )
    listed = run("worker", "list").out
    assert "some cpu (4.3 GB of 8.6 GB free)" in listed
    assert run("worker", "drain", "box").status == 0
    assert run("worker", "list", "--json").json[0]["state"] == "draining"
    assert run("worker", "stop", "box").status == 0
    assert run("worker", "stop", "bax").status == 3
    assert "no worker runs" in run("worker", "stop").out


def test_what_a_job_asks_of_its_slot_reaches_the_job(run: Run, data: Path, tiny_folder: Path) -> None:
    train = ("train", data, "--adapter", "birds", "--base", tiny_folder, "--detach", "--json")
    asked = ("--queue", "night", "--label", "a100", "--device", "cpu", "--memory", "1.5G", "--time-limit", "30m")
    assert run(*train, *asked, "--together").json["requirements"] == {
        "queue": "night",
        "device": "cpu",
        "memory_bytes": 3 * 2**29,
        "labels": ["a100"],
        "time_limit": 1800.0,
        "together": True,
    }
    for option, value in (("--time-limit", "soon"), ("--memory", "3x"), ("--queue", "../x")):
        refused = run(*train, option, value)
        assert refused.status == 2, refused
        assert "Traceback" not in refused.err


def test_a_job_that_no_worker_can_run_is_warned_of_at_submit(
    run: Run, database: Database, data: Path, tiny_folder: Path
) -> None:
    enter_worker(database)
    ran = run("train", data, "--adapter", "birds", "--base", tiny_folder, "--detach", "--queue", "night")
    assert ran.status == 0
    assert "worker gpu-1 cannot run this job: it serves no queue 'night'" in ran.err


def test_a_worker_with_names_that_are_none_does_not_start(run: Run) -> None:
    refused = run("worker", "start", "--name", "a b/..", "--queue", "../x", "--label", "")
    assert refused.status == 2
    for option in ("--name: 'a b/..' is no name", "--queue: '../x' is no name", "--label: '' is no name"):
        assert option in refused.err


def test_health_says_by_its_status_whether_a_worker_lives_here(run: Run, database: Database) -> None:
    assert run("worker", "health")[:2] == (1, "no worker of this host is alive\n")
    enter_worker(database)
    assert run("worker", "health")[:2] == (0, "gpu-1\n")


def test_doctor_tells_what_is_there_and_what_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json}
    assert {"machine", "versions", "settings", "home", "database", "artefacts", "broker", "plugins"} <= found.keys()
    assert "answers" in found["broker"]["found"]
    monkeypatch.setenv("FINCH_BROKER_URL", "redis://:sesame-sesame@127.0.0.1:1/0")
    monkeypatch.setenv("FINCH_DATABASE_URL", f"sqlite:///{home / 'other.db'}")
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json}
    assert ran.status == 7
    assert "does not answer" in found["broker"]["advice"]
    assert "db upgrade" in found["database"]["advice"]
    assert "sesame" not in ran.out + ran.err


def test_doctor_reports_a_home_that_is_none_beside_all_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    home.write_text("")
    monkeypatch.delenv("FINCH_BROKER_URL")
    ran = run("doctor", "--fast", "--json")
    found = {finding["about"]: finding for finding in ran.json}
    assert ran.status == 7
    assert "set FINCH_HOME to a folder that can" in found["home"]["advice"]
    assert found["plugins"]["advice"] == ""
