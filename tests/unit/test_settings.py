import os
from pathlib import Path

import pytest

from finch_hub import errors, settings
from finch_hub.workers.stores import open_stores


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FINCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))


def test_the_environment_wins_over_the_file_and_arguments_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "finch.toml").write_text("idle_seconds = 5\nmax_attempts = 7\nsweep_seconds = 3\n")
    monkeypatch.setenv("FINCH_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("FINCH_SWEEP_SECONDS", "4")
    found = settings.load(sweep_seconds=1)
    assert (found.idle_seconds, found.max_attempts, found.sweep_seconds) == (5, 2, 1)


def test_every_bad_value_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "finch.toml").write_text('leese_seconds = 5\nmax_attempts = "many"\n')
    with pytest.raises(errors.InvalidSpec) as caught:
        settings.load()
    assert {problem.where for problem in caught.value.problems} == {"leese_seconds", "max_attempts"}


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "finch.toml").write_text("idle_seconds = \n")
    with pytest.raises(errors.InvalidSpec, match=r"finch.toml: is no TOML: .*line 1"):
        settings.load()


def test_a_file_that_is_named_and_not_there_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINCH_CONFIG", str(tmp_path / "fnich.toml"))
    with pytest.raises(errors.InvalidSpec, match=r"FINCH_CONFIG: .*fnich.toml is no file"):
        settings.load()


def test_a_broker_that_is_no_url_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="broker_url: is no broker URL"):
        settings.load(broker_url="hunter2")


def test_a_home_that_cannot_be_made_is_no_fault_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.Unavailable, match=r"the home .*file cannot be used"):
        open_stores(settings.load(home=tmp_path / "file"))


def test_a_heartbeat_that_cannot_renew_in_time_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="half of lease_seconds"):
        settings.load(lease_seconds=10, heartbeat_seconds=6)


def test_passwords_in_urls_do_not_show() -> None:
    found = settings.load(database_url="postgresql+psycopg://user:hunter2@db/finch", broker_url="redis://:hunter2@r")
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(found.model_dump())
