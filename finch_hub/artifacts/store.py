"""Store of artifacts, named by their SHA-256, in a local folder or an object store."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from finch_hub import errors
from finch_hub.artifacts import manifests
from finch_hub.artifacts.files import Files, LocalFiles, ObjectFiles
from finch_hub.artifacts.manifests import Entry
from finch_hub.formats.atomic_writes import is_disk_full, remove_abandoned, scratch_folder
from finch_hub.logins import find_login
from finch_hub.progress import Meter

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 2**20
_MAX_MANIFEST = 2**20
_MAX_MARKER = 1024
_SERVERS = frozenset({"ftp", "sftp", "ssh", "smb"})  # protocols of fsspec with a host, a user and a password
_UNUSED_SECONDS = 30 * 86_400.0

MARKER = "finch-deployment"
"""File of a store that names the deployment that the store belongs to."""


class Guard(Protocol):
    """Decides whether a store is the right one."""

    def check(self, store: ArtifactStore, *, again: bool = False) -> None:
        """Refuse a store that is not the right one.

        Args:
            again: whether to look although the store was right a moment ago.

        Raises:
            StoreUnavailable: the store is another one, or does not answer.
        """


class ArtifactStore:
    """Store of blobs and trees, each named by the SHA-256 of its bytes.

    A tree is a folder of files, given by a manifest of blobs. Its blobs are written before the manifest, so no reader
    sees an incomplete tree. Artifacts never change; a second put repairs a damaged one. All reads are verified.

    Beside them are files and folders with names of their own, which do not stay: checkpoints of unfinished jobs, and
    outputs that wait for their submitter.

    Args:
        url: an fsspec URL (``s3://bucket/prefix``, ``memory://name``) or a local folder.
        cache: a local folder for the files of trees.
        guard: is asked before each write and whenever an artifact is missing; None accepts any store.
        is_private: whether other users are kept out of a local folder, otherwise the umask decides.

    Raises:
        InvalidSpec: the URL's protocol is unknown, or its package is not installed.
        StoreUnavailable: by every method, if the store does not answer, is full or is refused by the guard.

    Attributes:
        name: URL without credentials.
    """

    def __init__(self, url: str, *, cache: Path, guard: Guard | None = None, is_private: bool = False) -> None:
        self._files, self.name = _open(url, is_private=is_private)
        self._cache, self._guard, self._marked = cache, guard, self

    def check(self, *, again: bool = False, writes: bool = False) -> None:
        """Check that this is the right store.

        Args:
            again: whether to look although the store was right a moment ago.
            writes: whether to write a small file, too.
        """
        if self._guard is not None:
            self._guard.check(self._marked, again=again)
        if writes:
            probe = f"tmp/{secrets.token_hex(8)}"
            with self._translate_errors():
                self._files.put_bytes(probe, b"probe")
                self._files.remove(probe)

    def read_marker(self) -> str | None:
        """Return the text of the store's marker, None if it has none."""
        with self._translate_errors():
            try:
                with self._files.open(MARKER) as stream:
                    return stream.read(_MAX_MARKER).decode(errors="replace").strip()
            except FileNotFoundError:
                return None

    def write_marker(self, text: str) -> None:
        """Write the store's marker, unless it has one."""
        with self._translate_errors():
            self._files.put_new(MARKER, f"{text}\n".encode())

    @property
    def is_empty(self) -> bool:
        """Whether the store has no artifacts."""
        with self._translate_errors():
            return not any(self._files.has_any(folder) for folder in ("blobs", "trees"))

    def has_any(self, digests: Iterable[str]) -> bool:
        """Return whether any of the digests is that of a stored blob or tree. The guard is not asked."""
        for path in (path(digest) for digest in digests for path in (blob_path, tree_path)):
            with self._translate_errors(), contextlib.suppress(FileNotFoundError), self._files.open(path):
                return True
        return False

    def put(self, data: bytes) -> str:
        """Store a blob and return its digest; a stored one stays readable meanwhile."""
        digest = hashlib.sha256(data).hexdigest()
        self.check()
        with self._translate_errors():
            self._files.put_bytes(blob_path(digest), data)
        return digest

    def put_file(self, file: Path) -> str:
        """Store a file as a blob and return its digest. Only a part of it is in memory."""
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self.check()
        with self._translate_errors():
            self._files.put_file(blob_path(digest), file, _meter("MB stored", file))
        return digest

    def get(self, digest: str) -> bytes:
        """Return a blob.

        Raises:
            MissingArtifact: no blob has this digest.
            RefusedArtifact: the stored bytes have changed.
        """
        with self._opened(blob_path(digest), digest) as stream, self._translate_errors():
            data = stream.read()
        self._check(digest, hashlib.sha256(data).hexdigest(), what=f"blob {digest}")
        return data

    def has(self, digest: str) -> bool:
        """Return whether a blob is stored."""
        try:
            with self._opened(blob_path(digest), digest):
                return True
        except errors.NotFound:
            return False

    def read_lines(self, digest: str) -> Iterator[bytes]:
        """Yield the lines of a blob, with their ends; only one is in memory.

        Raises:
            MissingArtifact: no blob has this digest.
            RefusedArtifact: the stored bytes have changed; all lines were yielded.
        """
        found = hashlib.sha256()
        with self._opened(blob_path(digest), digest) as stream, self._translate_errors():
            for line in stream:
                found.update(line)
                yield line
        self._check(digest, found.hexdigest(), what=f"blob {digest}")

    def put_tree(self, folder: Path) -> str:
        """Store every file of a folder, subfolders included, and return the tree's digest.

        Raises:
            RefusedArtifact: the folder holds links, devices or file names that are unsafe on some systems.
        """
        self.check()
        entries: dict[str, Entry] = {}
        files = manifests.list_files(folder)
        meter = _meter("MB stored", *files)
        for path in files:
            with path.open("rb") as stream:
                entry = manifests.measure(stream)
            with self._translate_errors():
                self._files.put_file(blob_path(entry.digest), path, meter)
            entries[path.relative_to(folder).as_posix()] = entry
        return self.put_manifest(manifests.write(entries))

    def tree(self, digest: str) -> Mapping[str, Entry]:
        """Return a tree's files by name, without fetching them.

        Raises:
            MissingArtifact: no tree has this digest.
            RefusedArtifact: the manifest has changed.
        """
        return manifests.parse(self.read_manifest(digest), where=f"artifact store {self.name}: tree {digest}")

    def read_manifest(self, digest: str) -> bytes:
        """Return the manifest of a tree, whose hash is the tree's digest.

        Raises:
            MissingArtifact: no tree has this digest.
            RefusedArtifact: the manifest has changed.
        """
        with self._opened(tree_path(digest), digest, kind="tree") as stream, self._translate_errors():
            data = stream.read(_MAX_MANIFEST + 1)
        self._check(digest, hashlib.sha256(data).hexdigest(), what=f"tree {digest}")
        return data

    def put_manifest(self, data: bytes) -> str:
        """Store the manifest of a tree whose blobs are stored, and return the tree's digest."""
        self.check()
        digest = hashlib.sha256(data).hexdigest()
        with self._translate_errors():
            self._files.put_bytes(tree_path(digest), data)
        return digest

    def measure(self, digest: str) -> int:
        """Return the size of a blob, after its bytes were read and verified.

        Raises:
            MissingArtifact: no blob has this digest.
            RefusedArtifact: the stored bytes have changed.
        """
        with self._opened(blob_path(digest), digest) as stream, self._translate_errors():
            found = manifests.measure(stream)
        self._check(digest, found.digest, what=f"blob {digest}")
        return found.size

    def save_blob(self, digest: str, file: Path, meter: Meter | None = None) -> int:
        """Write a blob to a new file and return its size. A file whose bytes are wrong is removed.

        Args:
            meter: meter that counts the bytes.

        Raises:
            MissingArtifact: no blob has this digest.
            RefusedArtifact: the stored bytes have changed.
            OSError: the file cannot be written.
        """
        hashed, size = hashlib.sha256(), 0
        with self._opened(blob_path(digest), digest) as stream:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open("xb") as out:
                    while chunk := self._read(stream):
                        hashed.update(chunk)
                        size += out.write(chunk)
                        if meter is not None:
                            meter.add(len(chunk))
                self._check(digest, hashed.hexdigest(), what=f"blob {digest}")
            except errors.FinchError:
                file.unlink(missing_ok=True)
                raise
        return size

    def fetch_tree(self, digest: str) -> Path:
        """Return a local folder with a tree's verified files.

        The files are read-only and shared with other callers.

        Raises:
            MissingArtifact: the tree or a blob of it is missing.
            RefusedArtifact: stored bytes have changed.
        """
        entries = self.tree(digest)
        final = self._cache / digest
        if final.is_dir() and manifests.is_held(final, entries):
            with contextlib.suppress(OSError):  # of another user, or on a file system that is read-only
                os.utime(final)
            return final
        with contextlib.ExitStack() as stack:
            with self._translate_errors():
                for folder in (self._cache.parent, self._cache):
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                part = stack.enter_context(scratch_folder(final))
            for name, entry in entries.items():
                self._download(entry, part / manifests.check_name(name))
            with self._translate_errors():
                _publish(part, final, entries)
        return final

    def trim_cache(self, unused_seconds: float = _UNUSED_SECONDS) -> None:
        """Remove the trees from the cache that were not fetched for so long, and what killed processes left there."""
        remove_abandoned(self._cache)
        for folder in self._cache.glob("[0-9a-f]*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime > unused_seconds:
                    shutil.rmtree(folder)

    def below(self, folder: str) -> ArtifactStore:
        """Return a store in a folder of this one. `remove_folder` removes all of its artifacts."""
        store = copy.copy(self)
        store._files, store.name = self._files.below(folder), f"{self.name}/{folder}"
        return store

    def remove(self, digest: str) -> None:
        """Remove a blob, even if a tree refers to it. Ignore a missing one."""
        self.check()
        with self._translate_errors():
            self._files.remove(blob_path(digest))

    def put_named(self, path: str, file: Path) -> None:
        """Store a file under a name instead of a digest. An earlier file of that name is replaced as a whole."""
        self.check()
        with self._translate_errors():
            self._files.put_file(path, file, _meter("MB stored", file))

    def fetch_named(self, path: str, file: Path) -> None:
        """Write the file of a name to a new file. Its bytes are not verified.

        Raises:
            MissingArtifact: no file has this name.
        """
        self.check()
        with self._translate_errors():
            try:
                stream = self._files.open(path)
            except FileNotFoundError:
                raise errors.MissingArtifact("file", path) from None
            meter = Meter("MB fetched", size=10**6)
            with stream, file.open("xb") as out:
                while chunk := stream.read(_CHUNK):
                    out.write(chunk)
                    meter.add(len(chunk))

    def list_named(self, folder: str) -> list[str]:
        """Return the names of the files and folders in a folder."""
        self.check()
        with self._translate_errors():
            return sorted(self._files.list(folder))

    def remove_named(self, path: str) -> None:
        """Remove the file of a name. Ignore a missing one."""
        self.check()
        with self._translate_errors():
            self._files.remove(path)

    def remove_folder(self, path: str) -> None:
        """Remove the folder of a name with all that is in it. Ignore a missing one."""
        self.check()
        with self._translate_errors():
            self._files.remove_folder(path)

    @contextlib.contextmanager
    def access(self) -> Iterator[Files]:
        """Yield the files of the store, whose errors become `StoreUnavailable`."""
        self.check()
        with self._translate_errors():
            yield self._files

    def _read(self, stream: BinaryIO) -> bytes:
        with self._translate_errors():
            return stream.read(_CHUNK)

    def _download(self, entry: Entry, target: Path) -> None:
        with self._opened(blob_path(entry.digest), entry.digest) as stream, self._translate_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                found = manifests.measure(stream, out)
                os.fchmod(out.fileno(), 0o400)
        self._check(entry.digest, found.digest, what=f"blob {entry.digest}")

    @contextlib.contextmanager
    def _opened(self, path: str, digest: str, *, kind: str = "artifact") -> Iterator[BinaryIO]:
        if not _DIGEST.fullmatch(str(digest)):  # a damaged registry may have any value in its place
            raise errors.NotFound(kind, str(digest))
        with self._translate_errors():
            try:
                stream = self._files.open(path)
            except FileNotFoundError:
                self.check(again=True)
                try:
                    stream = self._files.open(path)  # the store may have been away for a moment
                except FileNotFoundError:
                    raise errors.MissingArtifact(kind, digest) from None
        with stream:
            yield stream

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn errors of the file system into `StoreUnavailable`; fsspec's implementations raise many kinds."""
        try:
            yield
        except errors.FinchError:
            raise
        except Exception as error:
            if is_disk_full(error):
                what = "no space left (free some space, or set FINCH_ARTIFACTS_URL to a larger store)"
            else:
                what = f"{type(error).__name__}: {error}"
            raise errors.StoreUnavailable(f"artifact store {self.name}: {what}") from error

    def _check(self, expected: str, found: str, *, what: str) -> None:
        if found != expected:
            where, what = f"artifact store {self.name}", f"{what} now has the SHA-256 {found}"
            fix = "the storage is damaged; restore it from a backup or make the artifact again"
            raise errors.RefusedArtifact(what, where=where, fix=fix)


def _open(url: str, *, is_private: bool) -> tuple[Files, str]:
    """Return the files of a URL, and its name without credentials.

    A server's URL without a login gets that of the user's netrc file.
    """
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    protocol, _, rest = url.partition("://")  # the rest may hold a password
    has_login = "@" in rest.partition("/")[0]
    login = find_login(url) if protocol in _SERVERS and not has_login else None
    options = {"username": login.user, "password": login.password.get_secret_value()} if login is not None else {}
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        fix = "use a folder or an fsspec URL and install its package (finch-hub[s3] for s3://)"
        raise errors.InvalidSpec(str(error), where="artifacts_url", fix=fix) from None
    except Exception as error:  # some implementations connect at once and raise errors of their own
        raise errors.StoreUnavailable(f"artifact store {protocol}://…: {type(error).__name__}: {error}") from error
    name = re.sub(r"(?<=//)[^/]*@", "", str(filesystem.unstrip_protocol(root)))  # some implementations keep the user
    if isinstance(filesystem, LocalFileSystem):
        return LocalFiles(Path(root), is_private=is_private), name
    return ObjectFiles(filesystem, root), name


def blob_path(digest: str) -> str:
    """Return the path of a blob in a store."""
    return f"blobs/{digest[:2]}/{digest}"


def tree_path(digest: str) -> str:
    """Return the path of the manifest of a tree in a store."""
    return f"trees/{digest[:2]}/{digest}"


def _meter(work: str, *files: Path) -> Meter:
    """Return a meter of megabytes of files."""
    return Meter(work, sum(file.stat().st_size for file in files), size=10**6)


def _publish(part: Path, final: Path, entries: Mapping[str, Entry]) -> None:
    """Rename a finished folder. Keep another process's valid one; replace a damaged one."""
    try:
        part.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if manifests.is_held(final, entries):
            return
        aside = part.with_name(f"{part.name}.old.part")
        final.rename(aside)
        part.rename(final)
        shutil.rmtree(aside, ignore_errors=True)
