from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from finch_hub import url_passwords

URL = "redis://broker:6379/0"


def complete(file: Path) -> str | None:
    return url_passwords.complete_url("broker", {"broker_url": URL, "broker_password_file": file})


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "secret")
    return tmp_path / "secret"


def test_password_comes_through_a_pipe_in_pieces(pipe: Path) -> None:
    """As from `<(pass show broker)` of a shell."""

    def write() -> None:
        with pipe.open("wb", buffering=0) as out:
            for part in (b"hun", b"ter2\n"):
                out.write(part)

    writer = threading.Thread(target=write)
    writer.start()
    assert complete(pipe) == "redis://:hunter2@broker:6379/0"
    writer.join()


def test_pipe_that_never_ends_is_refused(pipe: Path) -> None:
    fd = os.open(pipe, os.O_RDWR)

    def write() -> None:
        try:
            with pipe.open("wb", buffering=0) as out:
                for _ in range(100):
                    out.write(b"x" * 4096)
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(url_passwords.Refusal, match="has more than 65,536 bytes"):
        complete(pipe)
    os.close(fd)
    writer.join()


def test_pipe_to_which_nobody_writes_is_refused(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_passwords, "_PIPE_SECONDS", 0.01)
    with pytest.raises(url_passwords.Refusal, match="no password came through the pipe"):
        complete(pipe)


@pytest.mark.parametrize("make", [lambda file: file.mkdir(), lambda file: file.symlink_to("/dev/zero")])
def test_what_is_neither_a_file_nor_a_pipe_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "secret")
    with pytest.raises(url_passwords.Refusal, match="neither a file nor a pipe") as raised:
        complete(tmp_path / "secret")
    assert raised.value.field == "broker_password_file"
