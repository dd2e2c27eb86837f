"""Nothing of the user reaches the tests, and what tests leave behind is found."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import isolation
from support.isolation import ROOT, Isolation

_PRINT = "import os; print(*sorted(name for name in os.environ if name.startswith('FINCH_')))"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Isolation]:
    """An isolation within that of the session, which does not wait for processes."""
    monkeypatch.setattr(isolation, "_END_SECONDS", 0.1)
    made = Isolation()
    yield made
    made.leave()


def test_a_test_and_its_children_see_no_setting_of_the_user() -> None:
    expected = {"FINCH_HOME", *(name for name in os.environ if name.startswith("FINCH_TEST_"))}
    assert {name for name in os.environ if name.startswith("FINCH_")} == expected
    ran = subprocess.run([sys.executable, "-c", _PRINT], check=True, capture_output=True, text=True)
    assert set(ran.stdout.split()) == expected


@pytest.mark.parametrize(
    ("words", "home"),
    [(["demo"], ".demo"), (["bench"], ".demo"), (["clean"], ".demo"), (["demo", "DEMO_HOME=of CI"], "of CI")],
)
def test_demo_and_benchmarks_never_work_in_the_hub_of_the_user(words: list[str], home: str, tmp_path: Path) -> None:
    """The shell of the user leads to a hub in use. Each command gets a program that prints its settings instead."""
    for folder in (".demo", "benchmarks", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "benchmarks" / "speed.py").write_text("if __name__ == '__main__': ...", encoding="utf-8")
    for name in ("python", "finch-hub"):
        (tmp_path / ".venv/bin" / name).write_text("#!/bin/sh\nenv | grep ^FINCH_\n", encoding="utf-8")
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\t$(INSTALL)", "\t@true")
    (tmp_path / "Makefile").write_text(makefile, encoding="utf-8")
    shell = {f"FINCH_{name}": "in-use" for name in ("HOME", "CONFIG", "DATABASE_URL", "BROKER_URL", "ARTIFACTS_URL")}
    ran = subprocess.run(
        ["make", *words], cwd=tmp_path, env={**os.environ, **shell}, check=True, capture_output=True, text=True
    )
    seen = {line for line in ran.stdout.splitlines() if line.startswith("FINCH_") and "FINCH_TEST_" not in line}
    assert seen in ({f"FINCH_HOME={home}"}, {f"FINCH_HOME={tmp_path / home}"})


def test_exported_variables_and_files_of_the_user_are_neither_read_nor_written(tmp_path: Path) -> None:
    """Runs tests of the command line, the hub and a worker as an operator would whose shell has a hub in use."""
    trap, broken = tmp_path / "the user's", "this is no TOML"
    temporary = tmp_path / "temporary files"
    for folder in (trap / "home" / ".finch", trap / "work", temporary):
        folder.mkdir(parents=True)
    for file in (trap / "home" / ".finch" / "finch.toml", trap / "work" / "finch.toml", trap / "named.toml"):
        file.write_text(broken, encoding="utf-8")
    (trap / "finch_hub.py").write_text("raise ImportError('of the user')", encoding="utf-8")
    before = sorted(trap.rglob("*"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        exported = {
            "FINCH_DATABASE_URL": f"sqlite:///{trap / 'in-use.db'}",
            "FINCH_ARTIFACTS_URL": str(trap / "artifacts"),
            "FINCH_BROKER_URL": f"redis://{address}/0",
            "FINCH_CONFIG": str(trap / "named.toml"),
            "FINCH_LEASE_SECONDS": "soon",
            "FINCH_TEST_KEPT": "1",
            "HOME": str(trap / "home"),
            "HF_HOME": str(trap / "hf"),
            "PYTHONPATH": str(trap),
            "PIP_INDEX_URL": f"http://{address}/simple",
            "PGHOST": address,
            "TMPDIR": str(temporary),
            "MAKEFLAGS": "n -- DEMO_HOME=trap",  # `n`: print the commands, and run none
            "GNUMAKEFLAGS": "-n",
            **{f"XDG_{kind}_HOME": str(trap / kind) for kind in ("CACHE", "CONFIG", "DATA", "STATE")},
            **{f"{kind}_proxy": f"http://{address}" for kind in ("http", "https", "all")},
        }
        tests = (
            "unit/cli/test_datasets.py::test_data_sets_are_added_listed_and_purged",
            "unit/cli/test_jobs.py::test_detached_jobs_print_their_ids",
            "unit/hub/test_evaluating.py",
            "unit/workers/supervision/test_slots.py",
            "unit/test_ci.py::test_the_first_part_that_fails_ends_the_run_and_names_its_repetition",
            "unit/test_isolation.py::test_demo_and_benchmarks_never_work_in_the_hub_of_the_user",
            "unit/test_isolation.py::test_a_test_and_its_children_see_no_setting_of_the_user",
        )
        options = ("-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-p", "no:cacheprovider", "-p", "no:xdist")
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *(ROOT / "tests" / test for test in tests)],
            env={**os.environ, **exported},
            cwd=trap / "work",
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert sorted(trap.rglob("*")) == before
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("pytest-of-")] == []


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("FINCH_DATABASE_URL", True),
        ("FINCH_TEST_DATABASE_URL", False),
        ("HTTPS_PROXY", True),
        ("no_proxy", True),
        ("PIP_INDEX_URL", True),
        ("XDG_CACHE_HOME", True),
        ("HF_HUB_OFFLINE", True),
        ("PGHOST", True),
        ("AWS_PROFILE", True),
        ("MAKEFLAGS", True),
        ("MFLAGS", True),
        ("GNUMAKEFLAGS", True),
        ("PATH", False),
        ("LC_ALL", False),
    ],
)
def test_variables_that_are_hidden(name: str, hidden: bool) -> None:
    assert isolation.is_hidden(name) == hidden


def test_folders_of_the_session_are_its_own_and_short_enough_for_sockets() -> None:
    folder = Path(os.environ["TMPDIR"]).parent
    assert Path(tempfile.gettempdir()).is_relative_to(folder)
    assert Path.home().is_relative_to(folder)
    assert Path(os.environ["FINCH_HOME"]).is_relative_to(folder)
    assert len(os.fsencode(os.environ["XDG_RUNTIME_DIR"])) < 80


def test_a_process_that_outlives_the_tests_is_named_and_ended(own: Isolation) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        assert [line.split(":")[0] for line in own.leftovers()] == [f"process {process.pid}"]
        assert process.wait(10) != 0
    assert own.leftovers() == []


def test_a_temporary_file_that_outlives_the_tests_is_named(own: Isolation) -> None:
    handle, path = tempfile.mkstemp()
    os.close(handle)
    assert own.leftovers() == [f"{path} in the temporary folder"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system shows no shared memory as files")
def test_shared_memory_that_outlives_the_tests_is_named(own: Isolation) -> None:
    name = Path(os.environ["TMPDIR"]).parent.name
    segment = Path("/dev/shm") / name
    segment.write_bytes(b"left")
    try:
        assert own.leftovers() == [f"shared memory {name}"]
    finally:
        segment.unlink()


def test_the_environment_and_the_scratch_folder_are_as_before_afterwards() -> None:
    before = dict(os.environ)
    made = Isolation()
    assert os.environ["HOME"] != before["HOME"]
    made.leave()
    assert dict(os.environ) == before
    assert not made.folder.exists()
