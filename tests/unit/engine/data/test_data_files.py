"""Data files as streams."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from finch_hub import errors
from finch_hub.engine.data import data_files
from finch_hub.specs.reading import FileFormat


@pytest.mark.parametrize(
    ("name", "content", "file_format", "expected"),
    [
        ("a.jsonl", b"{}", None, "jsonl"),
        ("a.ndjson", b"{}", None, "jsonl"),
        ("A.JSON", b"[]", None, "json"),
        ("a.csv", b"a,b", None, "csv"),
        ("a.tsv", b"a\tb", None, "tsv"),
        ("a.csv.gz", b"a,b", None, "csv"),
        ("a.csv", b"PAR1", None, "parquet"),
        ("a.feather", b"ARROW1", None, "arrow"),
        ("a.arrow", b"\xff\xff\xff\xff", None, "arrow"),
        ("a", b" \n{}", None, "jsonl"),
        ("a", b"[{}]", None, "jsonl"),
        ("a", b"a;b", None, "csv"),
        ("a", b"\xef\xbb\xbf{}", None, "jsonl"),
        ("a", '{"a": 1}'.encode("utf-16"), None, "jsonl"),
        ("a", b"", None, "csv"),
        ("a.txt", b"{}", "jsonl", "jsonl"),
        ("a.data", b"a,b", "csv", "csv"),
        ("a.json", b"a,b", "csv", "csv"),
        ("a.data", b"PAR1", "csv", "parquet"),
    ],
)
def test_format_is_that_of_the_content_the_option_or_the_name(
    name: str, content: bytes, file_format: FileFormat | None, expected: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with data_files.open_file(tmp_path / name, file_format) as data:
        assert data.format == expected
        assert data.stream.read() == content


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("gzip", gzip.compress),
        ("bzip2", bz2.compress),
        ("xz", lzma.compress),
        ("zstd", lambda content: pyarrow.compress(content, codec="zstd", asbytes=True)),
    ],
)
def test_compressed_content_is_a_stream_that_can_go_back(name: str, compress: object, tmp_path: Path) -> None:
    content = b"prompt,completion\n" * 100_000
    compressed = compress(content)  # type: ignore[operator]
    (tmp_path / "a.csv").write_bytes(compressed)
    with data_files.open_file(tmp_path / "a.csv") as data:
        assert (data.stream.read(), data.compression) == (content, name)
        data.stream.seek(0)
        assert data.stream.read(6) == b"prompt"
    (tmp_path / "cut.csv").write_bytes(compressed[: len(compressed) // 2])
    with (
        pytest.raises(errors.InvalidDataset, match=f"cannot be decompressed with {name}"),
        data_files.open_file(tmp_path / "cut.csv"),
    ):
        pass


def test_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "FREE_BYTES", 2**20)
    bomb = gzip.compress(b"\0" * 2**26)
    for name, content in (("a.jsonl.gz", bomb), ("b.jsonl.zst", pyarrow.compress(b"\0" * 2**26, "zstd", asbytes=True))):
        (tmp_path / name).write_bytes(content)
        with (
            pytest.raises(errors.InvalidDataset, match="more than 200 times its size"),
            data_files.open_file(tmp_path / name),
        ):
            pass


def test_members_of_joined_archives_are_all_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}\n") + gzip.compress(b"[]\n"))
    with data_files.open_file(tmp_path / "a.jsonl.gz") as data:
        assert data.stream.read() == b"{}\n[]\n"


def test_zstd_without_a_library_is_told_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with (
        pytest.raises(errors.InvalidDataset, match=r"needs pyarrow \(pip install 'finch-hub\[parquet\]'\)"),
        data_files.open_file(tmp_path / "a.jsonl.zst"),
    ):
        pass


def test_terminal_as_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stdin in (Terminal(), None):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(errors.InvalidDataset, match="is a terminal"), data_files.open_file("-"):
            pass


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_device_is_refused(device: str) -> None:
    with pytest.raises(errors.InvalidDataset, match="is a device"), data_files.open_file(Path(device)):
        pass


def test_pipe_without_a_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "_LOOK_SECONDS", 0.0)
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(errors.InvalidDataset, match="is a pipe to which no program writes"),
        data_files.open_file(tmp_path / "pipe"),
    ):
        pass


def test_file_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(errors.InvalidDataset, match="cannot be opened"), data_files.open_file("/proc/self/mem"):
        pass


def test_named_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(gzip.compress(b"[{}]")))
    writer.start()
    with data_files.open_file(tmp_path / "pipe") as data:
        assert (data.format, data.stream.read()) == ("jsonl", b"[{}]")
    writer.join()


def test_temporary_file_that_cannot_be_written_is_told_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"[{}]" * 10_000))
    full = functools.partial(open, "/dev/full", "wb")
    for target, name, value, what in (
        (tempfile, "tempdir", str(tmp_path / "none"), "No such file or directory"),
        (tempfile, "TemporaryFile", full, "No space left on device"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            with (
                pytest.raises(errors.Unavailable, match=f"could not write to .*: {what} .free space there, or name"),
                data_files.open_file(tmp_path / "a.jsonl.gz"),
            ):
                pass


def test_absence_of_any_temporary_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"[{}]"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with (
        pytest.raises(errors.Unavailable, match="could not write to a temporary folder: No usable temporary directory"),
        data_files.open_file(tmp_path / "a.jsonl.gz"),
    ):
        pass


def test_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(errors.InvalidDataset, match="cannot be opened"), data_files.open_file(tmp_path / "a.jsonl"):
        pass


@pytest.mark.parametrize(
    ("name", "is_data", "is_unreadable"),
    [
        ("a.jsonl", True, False),
        ("a.CSV.GZ", True, False),
        ("a.parquet", True, False),
        ("a.xlsx", False, True),
        ("a.txt", False, True),
        ("a.pdf", False, True),
        ("README.md", False, False),
        ("LICENSE", False, False),
        ("script.py", False, False),
    ],
)
def test_names_of_data_files_are_known(name: str, is_data: bool, is_unreadable: bool) -> None:
    assert data_files.is_data_file(Path(name)) == is_data
    assert data_files.is_unreadable(Path(name)) == is_unreadable


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, lambda content: pyarrow.compress(content, "zstd", True)]
)
def test_each_damage_of_a_compressed_file_is_refused_or_read(compress: Any, tmp_path: Path) -> None:
    content = "".join(f'{{"text": "{number * 7919}"}}\n' for number in range(60)).encode()
    packed = compress(content)
    file = tmp_path / "a.jsonl"
    for place in range(6, len(packed), max(1, len(packed) // 150)):
        for damaged in (packed[:place], packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :]):
            file.write_bytes(damaged)
            with contextlib.suppress(errors.InvalidDataset), data_files.open_file(file) as data:
                assert data.stream.readable()
