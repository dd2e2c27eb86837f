import bz2
import contextlib
import gzip
import io
import os
import resource
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finch_hub import errors
from finch_hub.artifacts.archives import MAX_FILES, is_archive, open_archive
from finch_hub.formats import git_lfs

LIMIT = 50 * 2**20
FILES = {"adapter_config.json": b"{}", "sub/weights": bytes(range(256)) * 100}


def unpack(archive: Path, out: Path, *, max_bytes: int, names: tuple[str, ...] | None = None) -> dict[str, bytes]:
    """Extract files, by default all of them, and return what they hold by name."""
    with open_archive(archive, max_bytes=max_bytes) as opened:
        targets = {name: out / str(number) for number, name in enumerate(opened.files if names is None else names)}
        out.mkdir()
        opened.extract(targets)
    assert {path.name for path in out.iterdir()} == {path.name for path in targets.values()}
    return {name: path.read_bytes() for name, path in targets.items()}


def zip_of(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def tar_of(path: Path, entries: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    mode: Any = "w:" + (path.suffix[1:] if path.suffix != ".tar" else "")
    with tarfile.open(path, mode) as archive:
        for entry, data in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(kind: bytes, name: str = "x", target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def folder_of(make: Callable[..., Path], name: str) -> tuple[str | tarfile.TarInfo, bytes]:
    return (name, b"") if make is zip_of else (special(tarfile.DIRTYPE, name, ""), b"")


def zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "A.ZIP"])
def test_regular_files_are_unpacked(tmp_path: Path, name: str) -> None:
    make = zip_of if name.lower().endswith("zip") else tar_of
    archive = make(tmp_path / name, list(FILES.items()))
    assert is_archive(archive)
    assert unpack(archive, tmp_path / "out", max_bytes=LIMIT) == FILES


def test_full_disk_is_no_damage_of_the_archive(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", list(FILES.items()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            unpack(archive, tmp_path / "out", max_bytes=LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_name_of_a_file_cannot_pretend_that_the_disk_is_full(tmp_path: Path) -> None:
    name = "x (os error 28)/adapter_model.safetensors"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"weights")
    damaged = (tmp_path / "a.zip").read_bytes().replace(b"weights", b"changed")
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(errors.RefusedArtifact, match="cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out", max_bytes=LIMIT)


def test_tar_of_a_folder_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "in", arcname=".")
    assert unpack(tmp_path / "a.tar", tmp_path / "out", max_bytes=LIMIT) == {"a": b"1"}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("form", ["gz", "bz2", "xz", "tar", "zip"])
def test_content_decides_the_form_of_an_archive(tmp_path: Path, name: str, form: str) -> None:
    suffix = {"tar": ".tar", "zip": ".zip"}.get(form, f".tar.{form}")
    made = (zip_of if form == "zip" else tar_of)(tmp_path / f"made{suffix}", list(FILES.items()))
    if (form, name) != ("tar", "a.zip"):  # a zip may begin with anything, and is recognized by its name
        assert unpack(made.rename(tmp_path / name), tmp_path / "out", max_bytes=LIMIT) == FILES


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a/./../b", ".."])
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_names_outside_the_folder_are_refused(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    archive = make(tmp_path / f"a.{make.__name__[:3]}", [("good", b""), (name, b"evil")])
    with pytest.raises(errors.RefusedArtifact, match="outside the folder"), open_archive(archive, max_bytes=LIMIT):
        pass
    assert {p.name for p in tmp_path.rglob("*")} == {archive.name}


STRANGE_NAMES = [
    "C:\\x", "a\\b", "a//b", "new\nline", "bell\x07", "x" * 256, "/".join(["d" * 200] * 30), "12:30", "a\u00a0b",
    "a?*<>|", "weights", "CON",
]  # fmt: skip


@pytest.mark.parametrize("name", STRANGE_NAMES)
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_names_that_no_file_system_takes_do_no_harm(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    archive = make(tmp_path / f"a.{make.__name__[:3]}", [("good", b"1"), (name, b"2"), ("weights/more", b"3")])
    found = unpack(archive, tmp_path / "out", max_bytes=LIMIT, names=("good", name.replace("//", "/")))
    assert [*found.values()] == [b"1", b"2"]


def test_names_that_are_no_unicode_do_no_harm(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    archive = tar_of(tmp_path / "a.tar", [("good", b"1"), (name, b"2")])
    assert unpack(archive, tmp_path / "out", max_bytes=LIMIT) == {"good": b"1", name: b"2"}


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices_are_never_extracted(tmp_path: Path, kind: bytes) -> None:
    archive = tar_of(tmp_path / "a.tar", [("good", b"1"), (special(kind), b""), (special(kind, "y"), b"")])
    with pytest.raises(errors.RefusedArtifact, match="link") as refused:
        unpack(archive, tmp_path / "out", max_bytes=LIMIT)
    assert len(refused.value.problems) == 2
    assert list((tmp_path / "out").iterdir()) == []
    assert unpack(archive, tmp_path / "other", max_bytes=LIMIT, names=("good",)) == {"good": b"1"}


def test_links_in_a_zip_are_never_extracted(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [("good", b"1"), (zip_link(), b"/etc/passwd")])
    with pytest.raises(errors.RefusedArtifact, match="link"):
        unpack(archive, tmp_path / "out", max_bytes=LIMIT)
    assert unpack(archive, tmp_path / "other", max_bytes=LIMIT, names=("good",)) == {"good": b"1"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_repeated_name_is_never_extracted(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / f"a.{make.__name__[:3]}", [("a", b"1"), ("a", b"2"), ("b", b"3")])
    with pytest.raises(errors.RefusedArtifact, match="in it twice"):
        unpack(archive, tmp_path / "out", max_bytes=LIMIT)
    assert unpack(archive, tmp_path / "other", max_bytes=LIMIT, names=("b",)) == {"b": b"3"}


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_too_many_files_are_refused(tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finch_hub.artifacts.archives.MAX_FILES", 20)
    archive = make(tmp_path / f"a.{make.__name__[:3]}", [(f"f{n}", b"") for n in range(21)])
    with pytest.raises(errors.RefusedArtifact, match="entries"), open_archive(archive, max_bytes=LIMIT):
        pass


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_folders_count_as_entries(tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finch_hub.artifacts.archives.MAX_FILES", 20)
    folders = [folder_of(make, f"d{n}/") for n in range(20)]
    allowed = make(tmp_path / f"a.{make.__name__[:3]}", folders)
    with open_archive(allowed, max_bytes=LIMIT) as opened:
        assert opened.files == ()
    archive = make(tmp_path / f"b.{make.__name__[:3]}", [*folders, ("a", b"1")])
    with pytest.raises(errors.RefusedArtifact, match="more than 20 entries"), open_archive(archive, max_bytes=LIMIT):
        pass


def test_extended_headers_count_as_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finch_hub.artifacts.archives.MAX_FILES", 20)
    long: list[tuple[str | tarfile.TarInfo, bytes]] = [("d" * 150 + f"/{n}", b"1") for n in range(20)]
    with open_archive(tar_of(tmp_path / "a.tar", long), max_bytes=LIMIT) as opened:
        assert len(opened.files) == 20
    header = special(tarfile.XHDTYPE, "pax", "").tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "b.tar").write_bytes(header * 130 + (tmp_path / "a.tar").read_bytes())
    with (
        pytest.raises(errors.RefusedArtifact, match="more than 20 entries"),
        open_archive(tmp_path / "b.tar", max_bytes=LIMIT),
    ):
        pass


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_thousands_of_small_logs_do_no_harm(tmp_path: Path, make: Callable[..., Path]) -> None:
    assert MAX_FILES > 2000
    archive = make(tmp_path / f"a.{make.__name__[:3]}", [(f"logs/{n}", b"step") for n in range(2000)] + [("a", b"1")])
    assert unpack(archive, tmp_path / "out", max_bytes=LIMIT, names=("a",)) == {"a": b"1"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_archive_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, name: str) -> None:
    make = zip_of if name.endswith("zip") else tar_of
    archive = make(tmp_path / name, [("zeros", bytes(40 * 2**20))])
    assert archive.stat().st_size < 100_000
    with pytest.raises(errors.RefusedArtifact, match="unpacks to more"):
        unpack(archive, tmp_path / "out", max_bytes=LIMIT)


def test_zip_with_a_false_size_is_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [("zeros", bytes(40 * 2**20))])
    content = archive.read_bytes()
    size = (40 * 2**20).to_bytes(4, "little")
    assert content.count(size) >= 1
    archive.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(errors.RefusedArtifact):
        unpack(archive, tmp_path / "out", max_bytes=LIMIT)


def test_tar_with_a_giant_extended_header_is_refused(tmp_path: Path) -> None:
    info = special(tarfile.XHDTYPE, "pax", "")
    info.size = 2**30
    with gzip.open(tmp_path / "a.tar.gz", "wb") as stream:
        stream.write(info.tobuf() + bytes(2**20))
    with pytest.raises(errors.RefusedArtifact, match="unpacks to more"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", max_bytes=2**40)


def test_archive_above_the_limit_is_refused(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", [("a", b"x" * 2_000_000)])
    with pytest.raises(errors.RefusedArtifact, match="1500000"):
        unpack(archive, tmp_path / "out", max_bytes=1_500_000)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense" * 200, b"PK\x03\x04", b"\x1f\x8b\x08", bz2.compress(b"no tar" * 500)]
)
def test_damaged_archive_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = None
    with contextlib.suppress(errors.RefusedArtifact):
        found = unpack(tmp_path / name, tmp_path / "out", max_bytes=LIMIT)
    assert found in (None, {})


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_truncated_archive_is_refused(tmp_path: Path, name: str, cut: float) -> None:
    make = zip_of if name.endswith("zip") else tar_of
    archive = make(tmp_path / name, [("a", bytes(range(256)) * 40), ("b", bytes(range(256)) * 400)])
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(errors.RefusedArtifact, match=r"ends too early.*\(copy or download it again\)"):
        unpack(archive, tmp_path / "out", max_bytes=LIMIT)


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [("a", b"x")])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(errors.RefusedArtifact, match="encrypted"):
        unpack(archive, tmp_path / "out", max_bytes=LIMIT)


@pytest.mark.parametrize(
    "leftover", ["__MACOSX/a/._weights", "a/._weights", "a/.DS_Store", "a/Icon\r", "Thumbs.db", "a/desktop.ini"]
)
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_leftovers_of_systems_are_told_apart(tmp_path: Path, make: Callable[..., Path], leftover: str) -> None:
    archive = make(tmp_path / f"a.{make.__name__[:3]}", [("a/weights", b"1"), (leftover, b"2")])
    with open_archive(archive, max_bytes=LIMIT) as opened:
        assert opened.files == ("a/weights",)
        assert len(opened.leftovers) == 1


def entry_of_windows(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.create_system, info.filename = 0, name  # ZipInfo itself would change the name on Windows
    return info


def test_separators_of_old_windows_tools_are_read(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [(entry_of_windows("birds\\adapter_config.json"), b"{}")])
    assert unpack(archive, tmp_path / "out", max_bytes=LIMIT) == {"birds/adapter_config.json": b"{}"}


@pytest.mark.parametrize("name", ["..\\x", "\\x", "a\\..\\..\\x"])
def test_separators_of_windows_lead_out_of_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.RefusedArtifact):
        unpack(zip_of(tmp_path / "a.zip", [(entry_of_windows(name), b"")]), tmp_path / "out", max_bytes=LIMIT)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
def test_pointer_of_git_lfs_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    (tmp_path / name).write_text(pointer)
    with (
        pytest.raises(errors.RefusedArtifact, match=r"pointer of Git LFS.*git lfs pull"),
        open_archive(tmp_path / name, max_bytes=LIMIT),
    ):
        pass


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_archive_that_is_replaced_while_it_is_open_is_read_as_it_was(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = zip_of if name.endswith("zip") else tar_of
    archive = make(tmp_path / name, [("x", b"of the archive")])
    check = git_lfs.check_content

    def replace(start: bytes, **options: Any) -> None:
        check(start, **options)
        archive.unlink()
        os.mkfifo(archive)  # who opens it waits for ever

    monkeypatch.setattr(git_lfs, "check_content", replace)
    assert unpack(archive, tmp_path / "out", max_bytes=LIMIT) == {"x": b"of the archive"}
