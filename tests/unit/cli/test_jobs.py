"""`finch-hub jobs`, and the commands that only submit a job: merge, export, quantize, eval."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
from support import commands as parsing
from support import registry

from finch_hub import Hub
from finch_hub.cli import main
from finch_hub.display import commands, progress
from finch_hub.hub import jobs as hub_jobs
from finch_hub.hub.waiting import WaitStatus
from finch_hub.registry import attempts, tables, types
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import QuantizeSpec
from finch_hub.storage import outputs
from finch_hub.workers.runs import kinds

from .conftest import Run, enter_worker


def test_detached_jobs_print_their_ids(run: Run, database: Database, data: Path, tmp_path: Path) -> None:
    registry.add_version(database, "medical")
    (tmp_path / "finch.json").write_text('{"made": "merged model"}')  # as an earlier merge leaves it
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
        assert f"(queued). Follow it: finch-hub jobs watch {ran.out.strip()}\n" in ran.err
    kinds = [job["kind"] for job in run("jobs", "list", "--json").json]
    assert kinds == ["evaluate", "quantize", "export", "export", "merge", "merge"]
    for command in (("merge", "medical", "--out"), ("export", "medical", "--out"), ("backup",)):
        assert run(*command, tmp_path).status == 4
        assert run(*command, "").status == 2
    listed = run("jobs", "list", "--state", "queued", "--kind", "merge").out
    assert "medical/1 in" in listed
    assert f"/{tmp_path.name}" in listed  # a long path is wrapped


def test_job_is_shown_cancelled_retried_and_pruned(run: Run, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "medical")
    job = run("merge", "medical", "--out", tmp_path / "merged", "--detach", "--json").json
    assert "no worker is running" in run("jobs", "show", job["id"]).out
    assert run("jobs", "cancel", job["id"]).out == f"Cancelled job {job['id']}\n"
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
    assert run("jobs", "prune", "--days", 1, "--yes").out == "Deleted 0 jobs\n"
    assert run("jobs", "prune", "--keep", 0, "--dry-run").out == "Would delete 1 job\n"
    assert run("jobs", "prune", "--keep", 0, "--yes").out == "Deleted 1 job\n"


def test_watch_tells_why_a_job_waits_when_its_workers_begin_to_pause(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_jobs, "_ENSURE_SECONDS", 0.0)
    registry.add_version(database, "medical")
    enter_worker(database)
    job = run("merge", "medical", "--out", tmp_path / "merged", "--detach", "--json").json
    found = hub_jobs.JobHandle.obstacles
    looks: list[int] = []

    def pause_then_cancel(handle: hub_jobs.JobHandle) -> Mapping[str, list[str]]:
        looks.append(1)
        with database.write() as session:
            remark = "its store is away" if len(looks) > 1 else None
            session.execute(sa.update(tables.Worker).values(remark=remark))
        if len(looks) == 3:
            registry.cancel(database, handle.refresh())
        return found(handle)

    monkeypatch.setattr(hub_jobs.JobHandle, "obstacles", pause_then_cancel)
    ran = run("jobs", "watch", job["id"])
    assert ran.status == 6
    warning = "warning: worker gpu-1 cannot run this job: it claims no jobs: its store is away"
    assert " ".join(ran.err.split()).count(warning) == 1, "it is told once"


def test_watch_tells_now_and_then_what_a_job_waits_for(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_jobs, "_ENSURE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "WAIT_SECONDS", 0.0)
    first = registry.submit(database)
    job = registry.submit(database)
    found = hub_jobs.JobHandle.wait_status
    looks: list[int] = []

    def change(handle: hub_jobs.JobHandle) -> WaitStatus | None:
        looks.append(1)
        if len(looks) == 2:
            enter_worker(database)
            registry.claimed(database, job_id=first.id)
        if len(looks) == 3:
            registry.cancel(database, handle.refresh())
        return found(handle)

    monkeypatch.setattr(hub_jobs.JobHandle, "wait_status", change)
    told = " ".join(run("jobs", "watch", job.id).err.split())
    assert "- not started yet: 1 job ahead, no worker runs yet" in told
    assert "- not started yet: no job ahead, 1 job running on 1 worker" in told


def test_show_tells_what_a_job_waits_for(run: Run, database: Database) -> None:
    enter_worker(database)
    parents = [registry.submit(database) for _ in range(5)]
    job = registry.submit(database, depends_on=tuple(parent.id for parent in parents))
    shown = " ".join(run("jobs", "show", job.id).out.split())
    assert f"waits for jobs {', '.join(parent.id for parent in parents[:3])} and 2 more" in shown
    assert "4 jobs ahead, 0 jobs running on 1 worker" in run("jobs", "show", parents[4].id).out
    assert run("jobs", "show", parents[4].id, "--json").json["wait"]["ahead"] == 4
    retry = registry.AT_ONCE.evolve(base_delay=600)
    registry.fail(database, registry.claimed(database, job_id=parents[0].id), "no luck", retry)
    assert "it is tried again at 2" in run("jobs", "show", parents[0].id).out


def test_job_that_waits_for_nothing_is_told(run: Run, database: Database) -> None:
    parent = registry.submit(database)
    job = registry.submit(database, depends_on=(parent.id,))
    with database.write() as session:
        session.execute(sa.delete(tables.jobs).where(tables.jobs.c.id == parent.id))
    assert "the jobs that this job depends on are no longer in the database" in run("jobs", "show", job.id).out
    findings = run("doctor", "--fast", "--json").json["findings"]
    (queue,) = (finding for finding in findings if finding["about"] == "queue")
    assert "1 job that waits for nothing" in queue["found"]
    assert job.id in queue["advice"]


def test_watch_of_a_job_that_has_ended_shows_its_report(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    job = run("quantize", "medical", "--detach", "--json").json
    report = {"scheme": "int8", "group": None, "bytes_before": 100, "bytes_after": 50, "relative_error": 0.01}
    claimed = registry.claimed(database, job_id=job["id"])
    registry.succeed(database, claimed, report=report, adapter="medical/1")
    watched = run("jobs", "watch", job["id"])
    assert "Created adapter medical/1" in watched.out
    assert "int8, per channel" in watched.out
    assert [json.loads(line)["type"] for line in run("jobs", "watch", job["id"], "--json").out.splitlines()]
    registry.delete_version(database, "medical", 1)
    assert "int8, per channel" in run("jobs", "watch", job["id"]).out


def test_reason_of_a_job_that_a_worker_left_is_shown_once(run: Run, database: Database) -> None:
    job = registry.submit(database)
    claimed = registry.claimed(database)
    with database.write() as session:
        attempts.pass_on(session, claimed, "the store is away", policy=registry.AT_ONCE, alone="wait")
    for command in ("show", "events"):
        assert run("jobs", command, job.id).out.count("the store is away") == 1
    claimed = registry.claimed(database, worker="x")
    with database.write() as session:
        attempts.set_aside(session, claimed, "unknown field", version="9.9")
    shown = run("jobs", "show", job.id).out
    assert shown.count("unknown field") == 1
    assert re.search(r"target +medical", shown)
    assert "unknown field" in " ".join(run("jobs", "list").out.split())


def test_output_that_a_worker_elsewhere_made_is_saved_once(run: Run, database: Database, tmp_path: Path) -> None:
    registry.add_version(database, "medical")
    job = run("export", "medical", "--out", tmp_path / "out", "--detach", "--json").json
    claimed = registry.claimed(database, job_id=job["id"])
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "adapter_config.json").write_text("{}")
    with Hub() as hub:
        stored = outputs.store_output(tmp_path / "made", claimed, hub._stores.artifacts)
    report = {"format": "peft", "out": str(tmp_path / "out")}
    registry.succeed(database, claimed, report=report, output=stored.model_dump(mode="json"))
    assert f"Fetch its output: finch-hub jobs save {job['id']}\n" in run("jobs", "watch", job["id"]).err
    assert f": finch-hub jobs save {job['id']}\n" in run("jobs", "show", job["id"]).err
    assert not (tmp_path / "out").exists()
    saved = run("jobs", "save", job["id"])
    assert saved.out == f"Wrote the output of job {job['id']} to {tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "adapter_config.json").read_text() == "{}"
    (tmp_path / "out" / "finch.json").write_text(json.dumps({"made": "adapter", "job": job["id"]}))
    again = run("jobs", "save", job["id"])
    assert again.out == f"The output of job {job['id']} was written to {tmp_path / 'out'} before\n"
    gone = run("jobs", "save", job["id"], "--out", tmp_path / "again")
    assert gone.status == 3
    assert f"the output of job {job['id']} is no longer in the store: it was fetched already" in gone.err
    with database.write() as session:
        session.execute(sa.update(tables.jobs).values(finished_at=types.later(-8 * 86_400)))
    gone = run("jobs", "save", job["id"], "--out", tmp_path / "again")
    assert "it is removed a week after the job ended" in gone.err
    other = run("quantize", "medical", "--detach", "--json").json
    registry.succeed(database, registry.claimed(database, job_id=other["id"]), report=report)
    assert "has no output: it is a job of kind quantize" in run("jobs", "save", other["id"]).err
    assert "jobs save" not in run("jobs", "show", other["id"]).err


def test_jobs_are_listed_and_shown_with_their_owner(run: Run, database: Database) -> None:
    ada, ben, unknown = (registry.submit(database, owner=owner) for owner in ("ada", "ben", ""))
    assert {job["id"]: job["owner"] for job in run("jobs", "list", "--json").json} == {
        ada.id: "ada",
        ben.id: "ben",
        unknown.id: "",
    }
    listed = run("jobs", "list", "--owner", "ada").out
    assert "owner" in listed
    assert ada.id in listed
    assert ben.id not in listed
    assert run("jobs", "list", "--owner", "nobody", "--json").json == []
    assert re.search(r"owner +ben", run("jobs", "show", ben.id).out)
    assert run("jobs", "show", ben.id, "--json").json["owner"] == "ben"
    assert "3 queued, 0 running, 0 of them by ben" in run("jobs", "show", ben.id).out
    registry.claimed(database, job_id=ada.id)
    assert "queued" not in run("jobs", "show", ada.id).out
    more = registry.submit(database, owner="ada")
    assert "3 queued, 1 running, 1 of them by ada" in run("jobs", "show", more.id).out
    assert "owner" not in run("jobs", "show", unknown.id).out


def test_job_whose_version_was_deleted_is_shown(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    job = run("quantize", "medical", "--detach", "--json").json
    registry.add_version(database, "medical", digest=registry.digest("2"))
    report = {"scheme": "int8", "group": 64, "bytes_before": 200, "bytes_after": 100, "relative_error": 0.004}
    claimed = registry.claimed(database, job_id=job["id"])
    registry.succeed(database, claimed, adapter="medical/2", state="quarantined", report=report)
    registry.delete_version(database, "medical", 2)
    shown = run("jobs", "show", job["id"])
    assert shown.status == 0, shown.err
    assert "medical/2 quarantined" in shown.out
    assert "100 B (50%)" in shown.out
    assert run("jobs", "show", job["id"], "--json").json["result"]["adapter"] == "medical/2"
    assert run("jobs", "watch", job["id"]).status == 0


def test_prune_counts_days_of_24_hours(run: Run, database: Database) -> None:
    for hours in (23, 25):
        job = registry.submit(database)
        registry.cancel(database, job)
        with database.write() as session:
            ended = sa.update(tables.jobs).where(tables.jobs.c.id == job.id)
            session.execute(ended.values(finished_at=types.later(-hours * 3600)))
    assert run("jobs", "prune", "--days", 1, "--yes").out == "Deleted 1 job\n"
    assert run("jobs", "prune", "--days", 0.9, "--yes").out == "Deleted 1 job\n"


def test_job_that_this_version_cannot_read_is_listed_shown_and_cancelled(run: Run, database: Database) -> None:
    job, newer, broken = registry.submit(database), registry.submit(database), registry.submit(database)
    with database.write() as session:
        rows = sa.update(tables.jobs)
        session.execute(rows.where(tables.jobs.c.id == job.id).values(time_limit=-1))
        session.execute(rows.where(tables.jobs.c.id == newer.id).values(kind="distill"))
        spec = {**job.spec, "lora": {"rank": "many"}}
        session.execute(rows.where(tables.jobs.c.id == broken.id).values(spec=spec))
        session.execute(sa.text("UPDATE jobs SET created_at = 'yesterday' WHERE kind = 'distill'"))
    listed = {entry["id"]: entry for entry in run("jobs", "list", "--json").json}
    assert "time_limit" in listed[job.id]["unreadable"]
    assert "created_at" in listed[newer.id]["unreadable"]
    ran = run("jobs", "list")
    for text in ("cannot be read by this version", "created_at", "lora.rank"):
        assert text in " ".join(ran.out.split()), ran.out
    for each in (job, newer, broken):
        assert run("jobs", "show", each.id).status == 0
        assert run("jobs", "events", each.id).status == 0
    found = {finding["about"]: finding for finding in run("doctor", "--fast", "--json").json["findings"]}
    assert found["queue"]["advice"].startswith(f"run a worker of another version, or cancel: {job.id}: ")
    for each in (job, newer):
        assert run("jobs", "cancel", each.id).out == f"Cancelled job {each.id}\n"
    found = {finding["about"]: finding for finding in run("doctor", "--fast", "--json").json["findings"]}
    assert found["queue"]["advice"] == ""


def test_report_of_another_version_is_read_as_far_as_it_can_be(run: Run, database: Database) -> None:
    report = {"scheme": "int8", "group": 64, "bytes_before": 200, "bytes_after": 100, "relative_error": 0.004}
    shown = []
    for changes in ({"zero_points": [1]}, {"bytes_after": "many"}):
        registry.submit(database, spec=QuantizeSpec(adapter="medical/1"))
        claimed = registry.claimed(database)
        with database.write() as session:
            news = {"name": "data", "report": {"examples": "many"}}
            event = NewEvent(type="report", data=news)
            progress = NewEvent(type="progress", data={"step": "one", "loss": "low"})
            attempts.append_events(session, claimed, [event, progress])
        registry.succeed(database, claimed, report=report | changes, another="field")
        ran = run("jobs", "show", claimed.id)
        assert ran.status == 0, ran.err
        shown.append(ran.out)
        ran = run("jobs", "events", claimed.id)
        assert ran.status == 0, ran.err
        assert "report of another version of Finch Hub" in ran.out
    assert "100 B (50%)" in shown[0]
    assert "bytes_after" in shown[1]
    assert "cannot be read" in " ".join(shown[1].split())


def test_job_is_named_by_the_beginning_of_its_id_or_as_the_last_one(
    run: Run, database: Database, tmp_path: Path
) -> None:
    registry.add_version(database, "medical")
    first, second = (
        run("merge", "medical", "--out", tmp_path / name, "--detach").out.strip() for name in ("one", "two")
    )
    assert run("jobs", "show", "last", "--json").json["id"] == second
    begin = next(first[:length] for length in range(1, 17) if not second.startswith(first[:length]))
    assert run("jobs", "show", begin, "--json").json["id"] == first
    assert run("jobs", "list", "--before", "last", "--quiet").out == f"{first}\n"
    assert run("jobs", "cancel", begin).out == f"Cancelled job {first}\n"
    missing = run("jobs", "show", "zzzzzzzzzzz")
    assert (missing.status, "there is no job 'zzzzzzzzzzz'" in missing.err) == (3, True)


def test_beginning_of_several_ids_is_refused_with_them(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        monkeypatch.setattr(secrets, "token_bytes", lambda count, last=number: bytes(9) + bytes([last]))
        registry.submit(database, spec=registry.merge_spec("medical/1"))
    refused = run("jobs", "show", "aaa")
    assert refused.status == 2
    assert "begins the ids of aaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaab (write more of the id)" in refused.err


def test_last_job_without_any_is_not_found(run: Run, database: Database) -> None:
    assert run("jobs", "show", "last").status == 3


def test_deleting_without_a_terminal_is_refused(run: Run, database: Database) -> None:
    refused = run("jobs", "prune", "--days", 1)
    assert refused.status == 2
    assert "cannot ask for a confirmation: standard input is not a terminal (add --yes to confirm)" in refused.err


def test_empty_list_names_a_command_that_can_be_run(run: Run, database: Database) -> None:
    for words in (
        ("adapters", "list"),
        ("adapters", "find", "x"),
        ("adapters", "list", "--deleted"),
        ("jobs", "list"),
        ("jobs", "list", "--state", "failed"),
        ("worker", "list"),
        ("bases", "list"),
        ("datasets", "list"),
        ("audit",),
    ):
        ran = run(*words)
        assert ran.status == 0
        (advice,) = ran.err.splitlines()
        _, _, command = advice.partition(": finch-hub ")
        assert not any(word.isupper() for word in command.split()), command
        name, *others = command.split()
        found = main.cli.get_command(click.Context(main.cli), name)
        if isinstance(found, click.Group):
            found = found.get_command(click.Context(found), others[0])
        assert found is not None, command


def submit_all_kinds(run: Run, data: Path, tiny_folder: Path, tmp_path: Path) -> list[str]:
    """Return the ids of a job of each kind, with settings that differ from the defaults."""
    held_out = tmp_path / "held.jsonl"
    held_out.write_text('{"prompt": "Who?", "completion": "A finch."}\n')
    modules = ("--target-modules", "q_proj,v_proj", "--set", 'rank_pattern={"q_proj": 4}')
    needs = ("--label", "fast", "--device", "cpu", "--time-limit", "10m", "--queue", "night")
    limited = (*needs, "--memory-bytes", "1G")  # the memory of a training is estimated anew
    system = 'Answer in\n"one" word: it\'s short.'
    train = ("train", data, "--adapter", "birds", "--base", tiny_folder, "--rank", 8, "--epochs", 2)
    submitted = (
        (*train, *modules, *needs, "--system", system, "--set", "warmup_ratio=0.2", "--priority", 2),
        (*train, "--preset", "style", "--validation", held_out, "--learning-rate", 0.01),
        ("compose", "medical", "legal", "--adapter", "both", "--strategy", "ties", "--parameter", "density=0.3"),
        ("compose", "medical", "legal", "--adapter", "both", "--weights", "1,0.5", "--min-retention", 0.5, *limited),
        ("merge", "medical", "legal", "--out", tmp_path / "merged model", "--weights", "1,0.5"),
        ("quantize", "medical", "--scheme", "int4", "--group", 0),
        ("export", "medical", "--out", tmp_path / "exported", "--format", "vllm"),
        ("eval", data, "--adapter", "medical", "--adapter", "legal", "--evaluator", "exact_answer"),
        ("adapters", "reproduce", "both"),
    )
    ids = []
    for words in submitted:
        ran = run(*words, "--detach")
        assert ran.status == 0, ran.err
        ids.append(ran.out.strip())
    return ids


@pytest.mark.slow
def test_every_kind_of_job_is_repeated_by_its_config_and_by_its_command(
    run: Run, database: Database, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("medical", "legal"):
        registry.add_version(database, name)
    registry.add_version(database, "both", kind="compose", lineage=registry.made_from("medical/1", "legal/1"))
    ids = submit_all_kinds(run, data, tiny_folder, tmp_path)
    assert {run("jobs", "show", job_id, "--json").json["kind"] for job_id in ids} == set(kinds.MODULES)
    for job_id in ids:
        job = run("jobs", "show", job_id, "--json").json
        file = tmp_path / "run.toml"
        file.write_text(run("jobs", "show", job_id, "--config").out)
        ran = run(*commands.WORDS[job["kind"]], "--config", file, "--detach", "--json")
        assert ran.status == 0, (job["kind"], ran.err)
        assert find_differences(job, ran.json) == {}
        program, *words = parsing.split(job["command"])
        assert program == "finch-hub"
        ran = run(*words, "--detach", "--json")
        assert ran.status == 0, (job["command"], ran.err)
        assert find_differences(job, ran.json) == {}


def find_differences(job: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """Return what differs. The examples are read from the hub now, and a held-out file rules out a share."""
    specs = [{**each["spec"], "reading": None} for each in (job, again)]
    for spec in specs:
        if spec["kind"] == "train" and spec["validation"] is not None:
            spec["training"] = {**spec["training"], "validation": None}
    found = {name: (value, specs[1][name]) for name, value in specs[0].items() if value != specs[1][name]}
    return found | {name: (job[name], again[name]) for name in ("requirements", "priority") if job[name] != again[name]}


def test_options_of_the_command_line_win_over_the_config(
    run: Run, database: Database, data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    named = {
        "data": str(data),
        "adapter": "birds",
        "base": str(tiny_folder),
        "epochs": 2,
        "warmup_ratio": 0.2,
        "rank": 8,
    }
    file.write_text("\n".join(commands.write_settings(named)))
    ran = run("train", "--config", file, "--epochs", 5, "--set", "warmup_ratio=0.3", "--detach", "--json").json
    assert (ran["spec"]["training"]["epochs"], ran["spec"]["training"]["warmup_ratio"]) == (5, 0.3)
    assert ran["spec"]["lora"]["rank"] == 8


def test_config_with_unknown_settings_is_refused_with_all_of_them(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('kind = "merge"\nepoch = 2\nquiet = true\n')
    refused = run("train", "--config", file)
    assert refused.status == 2
    assert "the file is for a job of kind merge, and this command submits jobs of kind train" in refused.err
    assert "epoch: there is no such setting (did you mean epochs?)" in refused.err
    assert "quiet: there is no such setting" in refused.err
    file.write_text("epochs = \n")
    assert "is not valid TOML" in run("train", "--config", file).err


def test_logs_have_the_events_with_their_times_and_the_lines_of_the_worker(
    run: Run, database: Database, home: Path
) -> None:
    job = registry.submit(database, spec=registry.merge_spec("medical/1"))
    registry.fail(database, registry.claimed(database), reason="it broke")
    (home / "logs").mkdir()
    (home / "logs" / "worker.log").write_text(f"action=claimed job_id={job.id}\naction=claimed job_id=other\n")
    lines = run("jobs", "logs", job.id).out.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  info   queued", lines[0])
    assert any("failed" in line for line in lines)
    assert lines[-1] == f"action=claimed job_id={job.id}"
    assert json.loads(run("jobs", "logs", job.id, "--json").out.splitlines()[0])["seq"] == 1
