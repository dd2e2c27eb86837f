import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from support.buckets import make_bucket

from finch_hub import errors
from finch_hub.artifacts.inventory import list_artifacts
from finch_hub.artifacts.store import ArtifactStore, blob_path


def test_unknown_protocol_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSpec, match="fsspec"):
        ArtifactStore("nonsense://bucket", cache=tmp_path)


class GuardedFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """File system of a server that asks for a password."""

    protocol = "ftp"
    cachable = False

    def __init__(self, host: str, username: str = "", password: str = "", **options: Any) -> None:
        super().__init__(**options)
        if (host, username, password) != ("store.example", "finch", "correct-horse"):
            raise PermissionError(f"{host} refused {username} with {password}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path

    _get_kwargs_from_urls = staticmethod(FTPFileSystem._get_kwargs_from_urls)


def test_login_of_a_server_is_that_of_its_address_or_else_of_the_netrc_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_registry, "ftp", GuardedFileSystem)
    logins = tmp_path / "logins"
    monkeypatch.setenv("NETRC", str(logins))
    for address in ("ftp://store.example/x", "ftp://finch:wrong1-horse@store.example/x"):
        logins.write_text("machine store.example login finch password wrong2-horse\n")
        with pytest.raises(errors.StoreUnavailable, match=r"artifact store ftp://…: PermissionError") as raised:
            ArtifactStore(address, cache=tmp_path / "cache")
        assert "ftp://" in str(raised.value)
    logins.write_text("machine store.example login finch password correct-horse\n")
    store = ArtifactStore("ftp://store.example/x", cache=tmp_path / "cache")
    assert store.get(store.put(b"a finch")) == b"a finch"
    logins.write_text("machine store.example login finch password wrong2-horse\n")
    store = ArtifactStore("ftp://finch:correct-horse@store.example/x", cache=tmp_path / "cache")
    assert store.get(store.put(b"a finch")) == b"a finch"
    assert "correct-horse" not in store.name


def test_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    """A process with a limit on the size of files fails in the middle of a real write."""
    script = """
import resource, signal, sys
from pathlib import Path
from finch_hub import errors
from finch_hub.artifacts.store import ArtifactStore
store = ArtifactStore(sys.argv[1], cache=Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.put(b"x" * 5000)
except errors.Unavailable as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "store"], capture_output=True, text=True, check=True)
    assert run.stdout.rstrip().endswith("no space left (free some space, or set FINCH_ARTIFACTS_URL to a larger store)")
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


def test_file_is_stored_as_its_bytes_are(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")
    for number, content in enumerate((b"", b"a finch\n", b"x" * (2**20 + 3))):
        file = tmp_path / str(number)
        file.write_bytes(content)
        assert store.put_file(file) == store.put(content)
        assert store.get(store.put_file(file)) == content


@pytest.mark.parametrize("days", [0, 2, -2])
def test_temporary_file_of_a_killed_writer_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """The clock of a machine may be wrong by days. The store is of another one, with writers of its own."""
    clock = time.time
    store = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")
    store.put(b"first")
    old, fresh = (tmp_path / "store" / "tmp" / name for name in ("old", "fresh"))
    for file, hours in ((old, 25), (fresh, 23)):  # no writer needs a day for one file
        file.write_bytes(b"half a blob")
        os.utime(file, (time.time() - hours * 3600,) * 2)
    (tmp_path / "second").write_bytes(b"second")
    monkeypatch.setattr(time, "time", lambda: clock() + days * 86_400)
    store.put_file(tmp_path / "second")
    assert not old.exists()
    assert fresh.exists()


class Breaking(MemoryFileSystem):  # type: ignore[misc]
    """File system whose operations raise an error of a kind of their own, as those of object stores do."""

    protocol = "breaking"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("breaking://")  # keeps user and password, as that of HTTP does

    class SlowDown(Exception):
        pass

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise self.SlowDown("reduce your request rate")

    pipe_file = put_file = rm_file = _open = _raise


USES: dict[str, Callable[[ArtifactStore, Path], Any]] = {
    "put": lambda store, _: store.put(b"x"),
    "put_file": lambda store, folder: store.put_file(next(folder.iterdir())),
    "get": lambda store, _: store.get("0" * 64),
    "put_tree": lambda store, folder: store.put_tree(folder),
    "tree": lambda store, _: store.tree("0" * 64),
    "fetch_tree": lambda store, _: store.fetch_tree("0" * 64),
    "remove": lambda store, _: store.remove("0" * 64),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_error_of_any_kind_is_unavailable(tmp_path: Path, use: Callable[[ArtifactStore, Path], Any]) -> None:
    fsspec.register_implementation("breaking", Breaking, clobber=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(b"x")
    store = ArtifactStore("breaking://user:hunter2secret@bucket/a", cache=tmp_path / "cache")
    with pytest.raises(
        errors.Unavailable, match=r"artifact store breaking://bucket/a: SlowDown: reduce your request rate"
    ):
        use(store, tmp_path / "in")


def test_error_while_connecting_is_unavailable(tmp_path: Path) -> None:
    class Refusing(Breaking):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise self.SlowDown("no connection")

    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(errors.Unavailable, match=r"artifact store refusing://…: SlowDown: no connection"):
        ArtifactStore("refusing://user:hunter2secret@bucket", cache=tmp_path)


def test_credentials_of_the_url_are_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(errors.FinchError) as failed:
        ArtifactStore("ftp://user:hunter2secret@127.0.0.1:9/x", cache=tmp_path).put(b"x")
    assert "hunter2secret" not in str(failed.value)


def test_four_processes_fetch_one_tree_at_once(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(50):
        (source / f"{number}.txt").write_text(str(number) * 1000)
    digest = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache").put_tree(source)
    script = (
        "import sys; from pathlib import Path; from finch_hub.artifacts.store import ArtifactStore\n"
        "print(ArtifactStore(sys.argv[1], cache=Path(sys.argv[2])).fetch_tree(sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store"), str(tmp_path / "cache"), digest]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {run.communicate()[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0] * 4
    assert folders == {str(tmp_path / "cache" / digest)}
    assert len(list(Path(folders.pop()).iterdir())) == 50
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [digest]


def test_pipe_in_a_store_is_refused_and_blocks_nobody(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"), cache=tmp_path / "cache")
    digest = store.put(b"bytes")
    (file,) = (tmp_path / "store").rglob(digest)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(errors.RefusedArtifact, match="is not a regular file"):
        store.get(digest)


def test_listing_of_a_moment_ago_does_not_tell_what_is_stored_now(tmp_path: Path) -> None:
    """Other processes write and remove objects, too."""
    with make_bucket() as url:
        store, client, bucket = ArtifactStore(url, cache=tmp_path), boto3.client("s3"), url.split("/")[2]
        removed, added = store.put(b"0"), hashlib.sha256(b"26").hexdigest()
        assert removed[:2] == added[:2], "both are in one folder"
        assert list(list_artifacts(store, "blobs"))
        client.delete_object(Bucket=bucket, Key=f"artifacts/{blob_path(removed)}")
        client.put_object(Bucket=bucket, Key=f"artifacts/{blob_path(added)}", Body=b"26")
        assert (store.has(removed), store.has(added)) == (False, True)
