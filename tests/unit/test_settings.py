import json
import os
import pwd
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import sqlalchemy as sa

from finch_hub import errors, settings
from finch_hub.storage.stores import open_stores


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FINCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FINCH_HOME", str(tmp_path))


def test_arguments_win_over_the_environment_and_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "finch.toml").write_text("idle_seconds = 5\nmax_attempts = 7\nsweep_seconds = 3\n")
    monkeypatch.setenv("FINCH_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("FINCH_SWEEP_SECONDS", "4")
    found = settings.load(sweep_seconds=1)
    assert (found.idle_seconds, found.max_attempts, found.sweep_seconds) == (5, 2, 1)


def test_all_invalid_values_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "finch.toml"
    file.write_text('leese_seconds = 5\n# birds\n"max_attempts" = "many"\ndatabase_url = 5\n[broker]\nurl = 1\n')
    given = {"FINCH_OWNER_RUNNING": "0", "FINCH_LOG_LEVEL": "loud", "FINCH_ALLOW_INSECURE": "perhaps"}
    given |= {"FINCH_LEASE_SECONDS": "8", "finch_grace_seconds": "nan", "FINCH_OWNER": "x" * 97}
    for name, value in {**given, "FINCH_BROKER_PASSWORD": "hunter2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.InvalidSpec) as caught:
        settings.load(gang_size=0, owner_unfinished=1.5)
    assert {problem.where: f"{problem.what}; {problem.fix}" for problem in caught.value.problems} == {
        f"{file}, line 1, leese_seconds": "there is no such setting; did you mean lease_seconds or idle_seconds or"
        " sweep_seconds?",
        f"{file}, line 3, max_attempts": "is 'many', but must be a whole number from 1 to 1,000,000,000; ",
        f"{file}, line 4, database_url": "is not text; write it between quotes",
        f"{file}, line 5, broker": "there is no such setting;"
        " did you mean broker_url or broker_password or broker_password_file?",
        "FINCH_OWNER_RUNNING": "is '0', but must be a whole number from 1 to 1,000,000,000; ",
        "FINCH_LOG_LEVEL": "is 'loud', but must be debug or info or warning or error; ",
        "FINCH_ALLOW_INSECURE": "is 'perhaps', but must be true or false; ",
        "FINCH_HEARTBEAT_SECONDS": "is 5, but must be at most half of FINCH_LEASE_SECONDS, which is 8, or leases expire"
        " between renewals; ",
        "FINCH_GRACE_SECONDS": "is 'nan', but must be a number above 0 and up to 320,000,000; ",
        "FINCH_OWNER": f"is '{'x' * 97}', but must be text of 1 to 96 characters; ",
        "FINCH_BROKER_PASSWORD": "has no effect without FINCH_BROKER_URL; set the URL too, or remove the password",
        "gang_size": "is 0, but must be a whole number from 1 to 1,000,000,000; ",
        "owner_unfinished": "is 1.5, but must be a whole number from 1 to 1,000,000,000; ",
    }


@pytest.mark.parametrize("name", settings.Settings.model_fields)
@pytest.mark.parametrize("value", ["-1", "x\x00", "~nobody/::", "[]", "1e999"])
def test_no_setting_is_answered_in_the_words_of_a_library(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "finch.toml").write_text(f"{name} = {json.dumps(value)}\n")
    for given in ({}, {name: [value]}, {name: value}):
        problems = list_problems(**given)
        assert all(name in problem.where for problem in problems)
        assert not re.search(r"[Ii]nput|parse|pydantic|None\b|Value error", str(problems))


def list_problems(**given: object) -> tuple[errors.Problem, ...]:
    try:
        settings.load(**given)
    except errors.InvalidSpec as error:
        return error.problems
    return ()


def test_misspelled_variable_warns_with_similar_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_DB_URL", "postgresql://db/finch")
    with pytest.warns(settings.UnknownVariableWarning, match="FINCH_DB_URL is ignored.* FINCH_DATABASE_URL"):
        settings.load()


@pytest.mark.parametrize("name", ["TEST_DATABASE_URL", "FAULT", "DEBUG", "SAMPLE_JOURNAL"])
def test_variables_of_tests_deployments_and_plugins_do_not_warn(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"FINCH_{name}", "x")
    settings.load()


def test_empty_variable_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "CONFIG", "BROKER_URL", "LEASE_SECONDS"):
        monkeypatch.setenv(f"FINCH_{name}", "")
    found = settings.load()
    assert (found.home, found.broker_url, found.lease_seconds) == (Path.home() / ".finch", None, 60)


@pytest.fixture
def unknown_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, as in many containers."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)


@pytest.mark.usefixtures("unknown_user")
def test_user_without_a_home_folder_is_asked_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert settings.load().home == tmp_path
    monkeypatch.delenv("FINCH_HOME")
    with pytest.raises(
        errors.InvalidSpec, match="FINCH_HOME: is in ~, which this system does not know; set FINCH_HOME"
    ):
        settings.load()


@pytest.mark.usefixtures("unknown_user")
def test_tilde_stays_in_paths_of_users_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.expand_home("~/birds") == Path("~/birds")
    assert settings.expand_home("~no-such-user/birds") == Path("~no-such-user/birds")
    monkeypatch.setenv("HOME", "/home/finch")
    assert settings.expand_home("~/birds") == Path("/home/finch/birds")


@pytest.mark.parametrize("field", [field for field in settings.Settings.model_fields if field.endswith("_url")])
def test_passwords_of_addresses_are_not_printed(field: str, tmp_path: Path) -> None:
    loaded = settings.load(home=tmp_path, **{field: "redis://user:correct-horse@host/place"})
    printed = f"{loaded} {loaded!r} {loaded.model_dump()} {loaded.model_dump_json()} {vars(loaded)}"
    assert "correct-horse" not in printed


def test_tilde_in_folders_is_the_home_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/finch")
    found = settings.load(home="~/hub", metrics_folder="~/metrics", health_folder="~/health")
    places = (found.home, found.metrics_folder, found.health_folder)
    assert places == tuple(Path(f"/home/finch/{name}") for name in ("hub", "metrics", "health"))


def test_binary_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "finch.toml").write_bytes(b"idle_seconds = '\xff'")
    with pytest.raises(errors.InvalidSpec, match=r"finch.toml: is not valid TOML"):
        settings.load()


def test_invalid_file_is_reported_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "finch.toml").write_text("idle_seconds = \n")
    with pytest.raises(errors.InvalidSpec, match=r"finch.toml: is not valid TOML: .*line 1"):
        settings.load()


def test_deep_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "finch.toml").write_text(f"idle_seconds = {'[' * 100_000}")
    with pytest.raises(errors.InvalidSpec, match=r"finch.toml: is nested too deeply"):
        settings.load()


def test_home_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="home: is not a name in UTF-8"):
        settings.load(home=Path(os.fsdecode(b"/tmp/\xff")))


def test_missing_config_file_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINCH_CONFIG", str(tmp_path / "fnich.toml"))
    with pytest.raises(errors.InvalidSpec, match=r"FINCH_CONFIG: .*fnich.toml is not a file"):
        settings.load()


def test_invalid_broker_url_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="broker_url: is not a broker URL"):
        settings.load(broker_url="hunter2")


ODD = "p@ss:w/o%rd#?&[] größer 日本"
URLS = {"database": "postgresql://finch@db:5432/finch?sslmode=require", "broker": "rediss://broker:6379/0"}


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize("end", [None, "", "\n", "\r\n"])
def test_password_of_its_own_is_put_into_the_url(name: str, end: str | None, tmp_path: Path) -> None:
    if end is None:
        given: dict[str, object] = {f"{name}_password": ODD}
    else:
        (tmp_path / "secret").write_bytes(f"{ODD}{end}".encode())
        given = {f"{name}_password_file": tmp_path / "secret"}
    loaded = settings.load(**{f"{name}_url": URLS[name]}, **given)
    url = getattr(loaded, f"{name}_url").get_secret_value()
    parts = urlsplit(url)
    assert unquote(parts.password or "") == ODD
    assert url.replace(f":{parts.password}", "") == URLS[name].replace("//broker", "//@broker")
    if name == "database":
        assert sa.make_url(url).password == ODD
    assert ODD not in repr(loaded)
    assert loaded.model_fields_set - {"home"} == {f"{name}_url"}, "the URL is the only place of the password"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"broker_password": ODD}, "FINCH_BROKER_PASSWORD: has no effect without FINCH_BROKER_URL"),
        (
            {"broker_url": "redis://:hunter2@h", "broker_password": ODD},
            "FINCH_BROKER_PASSWORD: is set, but FINCH_BROKER_URL has a password already",
        ),
        (
            {"broker_url": "redis://h", "broker_password": ODD, "broker_password_file": "x"},
            "FINCH_BROKER_PASSWORD: is set, and so is FINCH_BROKER_PASSWORD_FILE",
        ),
        ({"broker_url": "redis://h", "broker_password_file": "missing"}, "could not read missing: No such file"),
        ({"broker_url": "redis://h", "broker_password_file": "empty"}, "empty is empty"),
        ({"broker_url": "redis://h", "broker_password_file": "latin"}, "latin is not UTF-8 text"),
        ({"broker_url": "redis://h", "broker_password_file": "long"}, "long has more than 65,536 bytes"),
        ({"broker_url": "redis://h", "broker_password_file": "/dev/zero"}, "/dev/zero is neither a file nor a pipe"),
        ({"broker_url": "redis://h", "broker_password_file": "."}, r"\. is neither a file nor a pipe"),
    ],
)
def test_password_that_fits_no_url_is_refused(
    given: dict[str, str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"\xff")
    (tmp_path / "long").write_bytes(b"x" * 65_537)
    for name, value in given.items():
        monkeypatch.setenv(f"FINCH_{name.upper()}", value)
    with pytest.raises(errors.InvalidSpec, match=what) as raised:
        settings.load()
    assert not any(secret in str(raised.value) for secret in (ODD, "hunter2"))


@pytest.mark.parametrize("field", ["database_url", "broker_url"])
@pytest.mark.parametrize("password", [ODD, "horse/battery", "horse?battery", "horse#battery", "[horse", "12?battery"])
def test_password_that_cuts_its_url_is_refused_and_not_shown(field: str, password: str) -> None:
    scheme = "postgresql" if field == "database_url" else "redis"
    with pytest.raises(
        errors.InvalidSpec, match=f"{field}: cannot be read .set its password as FINCH_{field[:-4].upper()}"
    ) as raised:
        settings.load(**{field: f"{scheme}://finch:{password}@host/0"})
    assert not any(part in str(raised.value) for part in ("horse", "battery", "p@ss", "w/o"))


def test_home_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.Unavailable, match=r"cannot use the home .*file.* \(set FINCH_HOME"):
        open_stores(settings.load(home=tmp_path / "file"))


def test_heartbeat_longer_than_half_the_lease_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="half of FINCH_LEASE_SECONDS, which is 10,"):
        settings.load(lease_seconds=10, heartbeat_seconds=6)


def test_passwords_in_urls_are_hidden() -> None:
    found = settings.load(database_url="postgresql+psycopg://user:hunter2@db/finch", broker_url="redis://:hunter2@r")
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(found.model_dump())


@pytest.mark.parametrize("name", ["what?x=1", "p%41#h", "a b'ü"])
def test_home_with_special_characters_is_accepted(name: str, tmp_path: Path) -> None:
    loaded = settings.load(home=tmp_path / name)
    assert sa.make_url(loaded.database).database == str(tmp_path / name / "finch.db")


def test_home_with_double_colon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="home: contains ::"):
        settings.load(home=tmp_path / "a::b")


def test_heartbeat_above_twenty_seconds_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec, match="heartbeat_seconds"):
        settings.load(lease_seconds=300, heartbeat_seconds=90)


def test_each_database_has_its_own_work_folder(tmp_path: Path) -> None:
    urls = [None, "postgresql://u:one@h/a", "postgresql://u:one@h/b", "postgresql://u:one@g/a", "sqlite:////x/a"]
    folders = [settings.load(home=tmp_path, database_url=url).work for url in urls]
    assert folders[0] == tmp_path / "work"
    assert len(set(folders)) == len(urls)
    again = settings.load(home=tmp_path, database_url="postgresql://u:another@h/a")
    assert again.work == folders[1], "a new password is no new database"


def test_owner_is_the_login_name_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().owner_name == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setenv("FINCH_OWNER", "team birds")
    assert settings.load().owner_name == "team birds"


def test_user_is_the_login_name_and_the_owner_unless_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().user_name == pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setenv("FINCH_USER", "ana")
    assert (settings.load().user_name, settings.load().owner_name) == ("ana", "ana")
    monkeypatch.setenv("FINCH_OWNER", "team birds")
    assert (settings.load().user_name, settings.load().owner_name) == ("ana", "team birds")


def test_names_of_user_and_owner_have_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINCH_USER", "https://a:SECRETpw1@h")
    assert (settings.load().user_name, settings.load().owner_name) == ("https://***@h", "https://***@h")
    monkeypatch.setenv("FINCH_OWNER", "password=SECRETpw1" + ",pw=1" * 15)
    owner = settings.load().owner_name
    assert "SECRETpw1" not in owner
    assert len(owner) <= 96


def test_owner_of_a_user_without_a_name_is_the_number_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_123)
    assert settings.load().owner_name == "user-4000000123"


@pytest.mark.parametrize("name", ["x" * 97, "a\nb", "a\x7f"])
@pytest.mark.parametrize("field", ["owner", "user"])
def test_owner_that_cannot_be_stored_or_printed_is_refused(field: str, name: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=field):
        settings.load(**{field: name})


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "9" * 40])
@pytest.mark.parametrize(
    "name", [name for name, field in settings.Settings.model_fields.items() if isinstance(field.default, (int, float))]
)
def test_number_that_no_clock_or_database_can_hold_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FINCH_{name.upper()}", value)
    with pytest.raises(errors.InvalidSpec, match=f"FINCH_{name.upper()}: is '"):
        settings.load()


@pytest.mark.parametrize(
    "name",
    ["memory_bytes", "owner_running", "owner_unfinished", "history_days", "history_jobs", "audit_days", "metrics_port"],
)
def test_limit_that_no_database_can_hold_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"FINCH_{name.upper()}", "9" * 40)
    with pytest.raises(errors.InvalidSpec, match=f"FINCH_{name.upper()}: is '"):
        settings.load()


def test_health_folder_of_the_user_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.load(health_folder="~/health").health_folder == tmp_path / "health"


@pytest.mark.parametrize("name", ["user", "owner"])
@pytest.mark.parametrize(
    "text", [" ", "   ", "\u2800", "\u3164", "\n", "a\nb", "\x1b[31mred", "ana\u202e", "-", "x" * 97]
)
def test_name_that_cannot_be_seen_or_is_too_long_is_refused(name: str, text: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=name):
        settings.load(**{name: text})
