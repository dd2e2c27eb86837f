from __future__ import annotations

import os
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.logins import find_login, list_passwords

PASSWORD = "correct-horse-battery"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "logins"
    file.write_text(f"machine models.example login finch password {PASSWORD}\nmachine empty.example login finch\n")
    monkeypatch.setenv("NETRC", str(file))
    return file


@pytest.mark.parametrize("address", ["https://models.example/x", "store://MODELS.example:22/x?a=1"])
def test_login_of_a_host_is_found_and_not_printed(file: Path, address: str) -> None:
    login = find_login(address)
    assert login is not None
    assert (login.user, login.password.get_secret_value()) == ("finch", PASSWORD)
    assert PASSWORD not in f"{login} {login!r} {login.model_dump()} {login.model_dump_json()}"
    assert list_passwords() == [PASSWORD]


@pytest.mark.parametrize("address", ["https://other.example/x", "https://empty.example", "models.example", "", "x://["])
def test_other_hosts_have_none(file: Path, address: str) -> None:
    assert find_login(address) is None


def test_file_in_the_home_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_login("https://h/x") is None
    (tmp_path / ".netrc").write_text(f"default login finch password {PASSWORD}\n")
    login = find_login("https://h/x")
    assert login is not None
    assert login.password.get_secret_value() == PASSWORD


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_file_that_may_have_no_end_is_not_read(file: Path, kind: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(content + b"#" * 2**20)
    with pytest.raises(errors.InvalidSpec, match="is not a netrc file"):
        find_login("https://models.example/x")
    assert list_passwords() == []


@pytest.mark.parametrize("content", [f"machine h password {PASSWORD} x y".encode(), b"\xff\xfe", b"machine"])
def test_damaged_file_is_reported_without_its_text(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(errors.InvalidSpec, match="is not a netrc file") as raised:
        find_login("https://h/x")
    assert PASSWORD not in str(raised.value)
    assert list_passwords() == []
