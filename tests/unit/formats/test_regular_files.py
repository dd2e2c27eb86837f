"""Opening of untrusted files: pipes, devices, sockets and folders are refused, and none of them blocks."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from finch_hub import errors
from finch_hub.formats.regular_files import open_regular_file, read_regular_file


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(path.parent):
        listening.bind(path.name)  # a path of a test can be too long for a socket


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": bind,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_path_that_is_not_a_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    with pytest.raises(errors.RefusedArtifact, match=r"^x: (is not a regular file|cannot be read: [A-Z].*)$"):
        open_regular_file(tmp_path / "x")


def test_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.RefusedArtifact, match="embedded null byte"):
        open_regular_file(tmp_path / "a\0b")


def test_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert read_regular_file(tmp_path / "link", max_bytes=5) == b"12345"
    with pytest.raises(errors.RefusedArtifact, match="has more than 4 bytes"):
        read_regular_file(tmp_path / "x", max_bytes=4)
