"""`finch-hub adapters`."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import registry
from support.adapters import save_adapter

from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry.database import Database

from .conftest import Run


def test_adapters_are_listed_tagged_aliased_and_deleted(run: Run, database: Database) -> None:
    metrics = {"loss_before": 3.0, "loss_after": 2.0, "rank": 16}
    registry.add_version(database, "medical", metrics=metrics)
    registry.add_version(database, "medical", metrics=metrics, digest=registry.digest("2"))
    assert "loss 3.000 -> 2.000" in run("adapters", "list").out
    assert run("adapters", "alias", "medical/1", "best").out == "Set alias medical@best to medical/1\n"
    assert run("adapters", "alias", "medical/1", "best").out == "Set alias medical@best to medical/1\n"
    assert run("adapters", "alias", "medical/2", "best", "--expected", 2).status == 4
    assert run("adapters", "tag", "medical@best", "gold", "checked").out == "Tagged medical/1: checked, gold\n"
    assert run("adapters", "tag", "medical/1", "gold", "--remove").out == ("Untagged medical/1: gold. It has checked\n")
    assert run("adapters", "tag", "medical/1", "nothere", "--remove").out == "medical/1 had no such tag\n"
    entries = run("audit", "--action", "version.untag", "--json").json
    assert [entry["details"]["tags"] for entry in entries] == [["gold"]]
    (listed,) = run("adapters", "list", "--json").json["adapters"]
    assert (listed["newest"]["number"], listed["aliases"]) == (2, {"best": 1})
    assert [version["number"] for version in run("adapters", "versions", "medical", "--json").json["versions"]] == [
        2,
        1,
    ]
    assert "medical/2" in run("adapters", "lineage", "medical").out
    assert run("adapters", "delete", "medical/1", "--yes").status == 4  # an alias points at it
    assert run("adapters", "alias", "medical", "best", "--delete", "--yes", "--expected", 2).status == 4
    deleted = run("adapters", "alias", "medical", "best", "--delete", "--yes", "--expected", 1)
    assert deleted.out == "Deleted alias medical@best\n"
    assert run("adapters", "delete", "medical/1", "--yes").out == "Deleted medical/1. Its number will not be reused.\n"
    assert run("adapters", "alias", "medical/2", "latest").status == 2


def test_query_that_no_version_meets_and_one_of_an_unknown_number(run: Run, database: Database) -> None:
    assert run("adapters", "list").out == "There are no adapters.\n"
    registry.add_version(database, "medical", metrics={"loss_after": 2.0})
    assert run("adapters", "find", "metric.loss_after<1").out == "No version meets the query.\n"
    assert run("adapters", "find", "metric.loss_after<1", "--json").json == {"versions": [], "next": None}
    for words in (["metric.loss_aftr<2"], ["--sort", "metric.loss_aftr"]):
        refused = run("adapters", "find", *words)
        assert refused.status == 3
        assert "there is no metric 'loss_aftr' (did you mean 'loss_after'?)" in refused.err


def test_folder_of_a_version_is_printed_in_one_line(run: Run, database: Database, home: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "adapter_config.json").touch()
    store = ArtifactStore(str(home / "artifacts"), cache=home / "cache" / "artifacts")
    registry.add_version(database, "medical", digest=store.put_tree(tmp_path / "files"))
    (folder,) = run("adapters", "path", "medical").out.splitlines()
    assert Path(folder, "adapter_config.json").is_file()
    assert run("adapters", "path", "medical", "--json").json == {"folder": folder}


def test_import_says_what_it_left_out_and_a_check_ends_the_state_unchecked(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    made = save_adapter(base, tmp_path / "made", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    (made / "optimizer.pt").write_bytes(b"x")
    assert run("bases", "add", base, "--name", "tiny", "--public-id", "birds/tiny").status == 0
    assert run("bases", "add", base, "--public-id", "not an id").status == 2
    shutil.move(base, tmp_path / "away")
    shown = run("adapters", "import", made, "--name", "guest", "--base", "tiny").out.splitlines()
    assert shown[0] == "Imported guest/1 (unchecked)"
    assert "Ignored files beside it: README.md, optimizer.pt" in shown
    assert shown[-1].startswith("It has whole modules (modules_to_save), so it cannot be used by: generate, evaluate")
    refused = run("export", "guest/1", "--out", tmp_path / "out")
    assert (refused.status, "adapters check guest/1" in refused.err) == (4, True)
    shutil.move(tmp_path / "away", base)
    assert run("adapters", "check", "guest/1").out == "Checked guest/1 (ready)\n"
    again = run("adapters", "import", made, "--name", "again", "--base", "tiny").out
    assert "It is the same adapter as guest/1" in again
    drawn = run("adapters", "show", "again").out
    assert "optimizer.pt" in drawn
    described = run("adapters", "show", "again", "--json").json
    assert "merge" not in described["limits"]["whole modules (modules_to_save)"]
    assert described["spec"]["import"]["ignored_files"] == ["README.md", "optimizer.pt"]


def test_version_and_alias_that_a_job_needs_are_not_deleted(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    registry.add_version(database, "legal")
    registry.set_alias(database, "legal", "best", 1)
    job = registry.submit(database, spec=registry.merge_spec("medical/1", "legal@best"))
    for command in (
        ["adapters", "delete", "medical/1", "--yes"],
        ["adapters", "alias", "legal", "best", "--delete", "--yes"],
    ):
        refused = run(*command)
        assert refused.status == 4
        assert f"job {job.id} needs it (cancel the job or wait until it ends)" in " ".join(refused.err.split())
    assert run("bases", "remove", "tiny", "--yes").status == 4
    registry.cancel(database, job)
    assert run("adapters", "delete", "medical/1", "--yes").status == 0


def test_history_of_an_alias_is_shown(run: Run, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        registry.add_version(database)
    monkeypatch.setenv("FINCH_USER", "ana")
    run("adapters", "alias", "medical/1", "best", "--why", "it is the first")
    run("adapters", "alias", "medical/2", "best", "--expected", 1)
    run("adapters", "alias", "medical", "best", "--delete", "--yes", "--why", "it is wrong")
    history = run("adapters", "alias-history", "medical@best", "--json").json
    assert [(move["from_number"], move["to_number"], move["who"], move["why"]) for move in history] == [
        (2, None, "ana", "it is wrong"),
        (1, 2, "ana", None),
        (None, 1, "ana", "it is the first"),
    ]
    shown = run("adapters", "alias-history", "medical", "--limit", 1)
    assert "it is wrong" in shown.out
    assert f"--after={history[0]['id']}" in shown.err
    assert run("adapters", "alias-history", "medical@bets").status == 3


def test_adapter_is_deleted_listed_and_restored(run: Run, database: Database, store: ArtifactStore) -> None:
    add_with_files(database, store, "medical", 2)
    deleted = run("adapters", "delete", "medical", "--yes")
    assert deleted.out == "Deleted medical with 2 versions.\n"
    assert deleted.err == "Restore it: finch-hub adapters restore medical\n"
    assert run("adapters", "list", "--json").json == {"adapters": [], "next": None}
    (listed,) = run("adapters", "list", "--deleted", "--json").json["deletions"]
    assert (listed["reference"], listed["versions"]) == ("medical", 2)
    assert "medical" in run("adapters", "list", "--deleted").out
    assert run("adapters", "list", "--deleted", "--after", "x").status == 2
    refused = run("adapters", "show", "medical/1")
    assert (refused.status, "adapters restore medical" in refused.err) == (3, True)
    assert run("adapters", "restore", "medical").out == "Restored medical/1, medical/2\n"
    assert run("adapters", "restore", "medical").status == 4
    assert run("adapters", "delete", "medical/1", "--yes").out == "Deleted medical/1. Its number will not be reused.\n"
    assert run("adapters", "restore", "medical/1").out == "Restored medical/1\n"


def test_command_for_the_next_page_has_the_options_of_this_one(run: Run, database: Database) -> None:
    for name in ("legal", "medical", "other"):
        for _ in range(3):
            registry.add_version(database, name, card="whales")
    for command in (
        ["list"],
        ["versions", "legal"],
        ["find", "--sort", "name", "whales base:tiny"],
        ["list", "--deleted"],
    ):
        if "--deleted" in command:
            for name in ("legal", "medical", "other"):
                registry.delete(database, name)
        page, pages = run("adapters", *command, "--limit", 1), set()
        while page.err:
            pages.add(page.out)
            words = shlex.split(page.err)
            assert words[:4] == ["next", "page:", "finch-hub", "adapters"]
            assert "--limit=1" in words
            page = run(*words[3:])
        assert len({*pages, page.out}) == (9 if command[0] == "find" else 3)
        assert "--limit" not in run("adapters", *command).err


def test_purge_asks_at_a_terminal_and_needs_yes_elsewhere(
    run: Run, database: Database, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_with_files(database, store, "medical", 2)
    refused = run("adapters", "purge", "medical/1")
    assert (refused.status, "add --yes" in refused.err) == (2, True)
    purged = run("adapters", "purge", "medical/1", "--yes")
    assert purged.out.startswith("Purged medical/1 with 1 version. ")
    assert purged.out.endswith("B freed.\n")
    for answer, status in (("n\n", 130), ("y\n", 0)):
        answer_at_terminal(monkeypatch, answer)
        asked = run("adapters", "purge", "medical", "--json")
        assert (asked.status, "Purge medical (1 version), which cannot be undone?" in asked.err) == (status, True)
    assert asked.json["versions"] == ["medical/2"]
    assert run("adapters", "purge", "medical", "--yes").status == 3


@pytest.mark.parametrize(
    "words",
    [
        ("adapters", "delete", "gone"),
        ("adapters", "delete", "gone/3"),
        ("adapters", "delete", "medical/9"),
        ("adapters", "purge", "gone"),
        ("adapters", "alias", "medical", "gone", "--delete"),
        ("bases", "remove", "gone"),
        ("datasets", "purge", "gone"),
    ],
    ids=" ".join,
)
def test_what_does_not_exist_is_an_error_before_anything_is_asked(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    registry.add_version(database, "medical")
    for answer in ("y\n", None):
        if answer is not None:
            answer_at_terminal(monkeypatch, answer)
        else:
            monkeypatch.setattr(sys, "stdin", io.StringIO())
        ran = run(*words)
        assert (ran.status, "?" in ran.err.replace("did you mean", "").partition("(")[0]) == (3, False), ran.err


def test_question_says_what_goes(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch, data: Path, tiny_folder: Path
) -> None:
    for _ in range(2):
        registry.add_version(database, "medical", metrics={"bytes": 1500})
    registry.set_alias(database, "medical", "best", 2)
    run("datasets", "add", data, "--name", "birds")
    run("bases", "add", tiny_folder, "--name", "small")
    for words, question in (
        (("adapters", "delete", "medical"), "Delete medical (2 versions, 3.0 kB)?"),
        (("adapters", "delete", "medical/1"), "Delete medical/1 (1.5 kB)?"),
        (("adapters", "alias", "medical", "best", "--delete"), "Delete alias medical@best of medical/2?"),
        (("adapters", "purge", "medical/1"), "Purge medical/1 (1.5 kB), which cannot be undone?"),
        (("datasets", "purge", "birds"), "Delete the text of data set birds (10 examples, "),
        (("bases", "remove", "small"), "Remove base small (LlamaForCausalLM, "),
        (("jobs", "prune", "--keep", "0"), "Delete 0 ended jobs with their events, which cannot be undone?"),
    ):
        answer_at_terminal(monkeypatch, "n\n")
        asked = run(*words)
        assert (asked.status, question in asked.err) == (130, True), asked.err


def test_question_counts_many_versions_in_as_many_statements_as_one(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []

    def note(*args: Any) -> None:
        statements.append(args[2])

    counts = []
    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        for name, versions in (("few", 1), ("many", 5)):
            for _ in range(versions):
                registry.add_version(database, name, metrics={"bytes": 1500})
            answer_at_terminal(monkeypatch, "n\n")
            statements.clear()
            assert f"Delete {name} ({versions} version" in run("adapters", "delete", name).err
            counts.append(len([statement for statement in statements if "adapter_versions" in statement]))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert counts == [1, 1]


@pytest.mark.parametrize("command", ["delete", "purge"])
@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_alias_is_no_way_to_delete_its_version(
    run: Run, database: Database, command: str, options: tuple[str, ...]
) -> None:
    registry.add_version(database, "birds")
    registry.set_alias(database, "birds", "best", 1)
    refused = run("adapters", command, "birds@best", *options)
    assert (refused.status, f"cannot {command} 'birds@best': it may name another version later" in refused.err) == (
        2, True,
    )  # fmt: skip


def answer_at_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)


def test_lineage_marks_what_is_gone(run: Run, database: Database) -> None:
    registry.add_version(database, "medical")
    registry.add_version(database, "legal")
    registry.add_version(database, "both", kind="compose", lineage=registry.made_from("medical/1", "legal/1"))
    registry.add_version(database, "less", kind="quantize", lineage=registry.made_from("both/1"))
    registry.delete(database, "medical/1")
    registry.purge(database, "less/1")
    drawn = run("adapters", "lineage", "both").out
    assert "medical/1 x 0.5 (train, deleted)" in drawn
    assert "legal/1 x 0.5 (train)" in drawn
    versions = run("adapters", "lineage", "both", "--json").json["versions"]
    assert [version["deleted_at"] is None for version in versions] == [True, False, True]
    refused = run("adapters", "lineage", "less/1")
    assert (refused.status, "was purged" in refused.err) == (3, True)


@pytest.fixture
def store(home: Path) -> ArtifactStore:
    return ArtifactStore(str(home / "artifacts"), cache=home / "cache" / "artifacts")


def add_with_files(database: Database, store: ArtifactStore, name: str, count: int) -> None:
    """Add versions with files of their own."""
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "adapter_config.json").write_text(f"{number}")
            registry.add_version(database, name, digest=store.put_tree(Path(folder)))


def test_query_that_begins_with_a_minus_is_told_how_it_is_written(run: Run) -> None:
    refused = run("adapters", "find", "-state:quarantined")
    assert refused.status == 2
    assert "adapters find -- -state:quarantined" in refused.err
    refused = run("adapters", "find", "whales", "-tag:old", "--sort", "-created", "--limit", 5)
    assert "adapters find whales --sort -created --limit 5 -- -tag:old" in " ".join(refused.err.split())
    for words in (("--frob", "-tag:old"), ("--frob", "--sort", "-created")):
        assert "for a query" not in run("adapters", "find", *words).err


def test_metric_without_its_group_is_completed(run: Run) -> None:
    assert "write metric.loss_after<3" in run("adapters", "find", "loss_after<3").err
    assert "write -metric.loss_after" in run("adapters", "find", "--sort", "-loss_after").err
