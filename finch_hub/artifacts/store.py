"""The artefact store: bytes named by their SHA-256, on a local disk or in any object store that fsspec reaches."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from finch_hub import errors
from finch_hub.artifacts.files import Files, LocalFiles, ObjectFiles

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 2**20
_MAX_MANIFEST = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file of a tree."""

    digest: str
    size: int


class ArtifactStore:
    """Blobs, and trees (folders of files, given by a manifest of blobs), each named by the SHA-256 of its bytes.

    Nothing is ever changed: putting what is there already only makes it young again. A tree's blobs are written before
    its manifest, whose put is the commit, so a half tree is never seen. Everything that is read is verified.

    Args:
        url: an fsspec URL (``s3://bucket/prefix``, ``memory://name``) or a local folder.
        cache: a local folder in which trees are laid out as folders.

    Raises:
        InvalidSpec: the URL's protocol is unknown, or its package is not installed.
        Unavailable: from every method, when the store does not answer or is full.

    """

    def __init__(self, url: str, *, cache: Path) -> None:
        self._files, self._name = _open(url)
        self._cache = cache

    def put(self, data: bytes) -> str:
        """Store a blob and return its digest; what is there already stays valid throughout."""
        digest = hashlib.sha256(data).hexdigest()
        with self._translated():
            self._files.put_bytes(_blob(digest), data)
        return digest

    def get(self, digest: str) -> bytes:
        """Return a blob.

        Raises:
            NotFound: there is none of this digest.
            RefusedArtifact: the stored bytes are no longer the ones that were put.

        """
        with self._opened(_blob(digest), digest) as stream, self._translated():
            data = stream.read()
        self._check(digest, hashlib.sha256(data).hexdigest(), what=f"blob {digest}")
        return data

    def put_tree(self, folder: Path) -> str:
        """Store every file of a folder, subfolders included, and return the tree's digest.

        Raises:
            RefusedArtifact: it holds links, devices or file names that are not safe everywhere.

        """
        entries: dict[str, Entry] = {}
        for path in _regular_files(folder):
            with path.open("rb") as stream:
                entry = _measure(stream)
            with self._translated():
                self._files.put_file(_blob(entry.digest), path)
            entries[path.relative_to(folder).as_posix()] = entry
        manifest = {name: [entry.digest, entry.size] for name, entry in sorted(entries.items())}
        data = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        with self._translated():
            self._files.put_bytes(_tree(digest), data)
        return digest

    def tree(self, digest: str) -> Mapping[str, Entry]:
        """Return a tree's files by name, without fetching them.

        Raises:
            NotFound: there is none of this digest.
            RefusedArtifact: the manifest is not the one that was put.

        """
        with self._opened(_tree(digest), digest, kind="tree") as stream, self._translated():
            data = stream.read(_MAX_MANIFEST + 1)
        self._check(digest, hashlib.sha256(data).hexdigest(), what=f"tree {digest}")
        return {name: Entry(digest=blob, size=size) for name, (blob, size) in json.loads(data).items()}

    def fetch_tree(self, digest: str) -> Path:
        """Return a local folder with a tree's files, verified; they are read-only and shared with other callers.

        Raises:
            NotFound: the tree, or a blob of it, is not there.
            RefusedArtifact: stored bytes are no longer the ones that were put.

        """
        entries = self.tree(digest)
        final = self._cache / digest
        if final.is_dir() and _holds(final, entries):
            return final
        part = self._cache / f".{digest}.{secrets.token_hex(4)}"
        try:
            for name, entry in entries.items():
                self._download(entry, part / _safe(name))
            with self._translated():
                part.mkdir(parents=True, exist_ok=True)
                _publish(part, final, entries)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return final

    def remove(self, digest: str) -> None:
        """Remove a blob, whoever still refers to it; one that is gone already is fine."""
        with self._translated():
            self._files.remove(_blob(digest))

    def collect(self, keep: AbstractSet[str], *, older_than: float) -> list[str]:
        """Remove what nobody keeps and return the digests removed.

        Args:
            keep: digests of trees and blobs; a tree keeps its blobs.
            older_than: seconds; what was put since stays, since its owner may not have recorded it yet.

        """
        removed: list[str] = []
        needed = set(keep)
        with self._translated():
            for path in list(self._files.paths("trees")):
                digest = PurePosixPath(path).name
                if digest not in keep and self._old(path, older_than):
                    self._files.remove(path)
                    shutil.rmtree(self._cache / digest, ignore_errors=True)
                    removed.append(digest)
                else:
                    with contextlib.suppress(errors.NotFound):  # another collection was faster
                        needed.update(entry.digest for entry in self.tree(digest).values())
            for path in list(self._files.paths("blobs")):
                digest = PurePosixPath(path).name
                if digest not in needed and self._old(path, older_than):
                    self._files.remove(path)
                    removed.append(digest)
        return removed

    def _old(self, path: str, older_than: float) -> bool:
        try:
            return self._files.age(path) > older_than
        except FileNotFoundError:
            return False  # another collection was faster

    def _download(self, entry: Entry, target: Path) -> None:
        with self._opened(_blob(entry.digest), entry.digest) as stream, self._translated():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                found = _measure(stream, out)
                os.fchmod(out.fileno(), 0o444)
        self._check(entry.digest, found.digest, what=f"blob {entry.digest}")

    @contextlib.contextmanager
    def _opened(self, path: str, digest: str, *, kind: str = "artefact") -> Iterator[BinaryIO]:
        if not _DIGEST.fullmatch(digest):
            raise errors.NotFound(kind, digest)
        with self._translated():
            try:
                stream = self._files.open(path)
            except FileNotFoundError:
                raise errors.NotFound(kind, digest) from None
        with stream:
            yield stream

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what a file system raises into ours; fsspec's implementations raise errors of many kinds."""
        try:
            yield
        except errors.FinchError:
            raise
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = (
                "there is no space left (free some, or set FINCH_ARTIFACTS_URL to a larger place)"
                if full
                else f"{type(error).__name__}: {error}"
            )
            raise errors.Unavailable(f"artefact store {self._name}: {what}") from error

    def _check(self, wanted: str, found: str, *, what: str) -> None:
        if found != wanted:
            raise errors.RefusedArtifact(
                errors.Problem(
                    where=f"artefact store {self._name}",
                    what=f"{what} now has the SHA-256 {found}",
                    fix="the storage is damaged; restore it from a backup, or make the artefact again",
                )
            )


def _open(url: str) -> tuple[Files, str]:
    """Return the files of a URL, and its name without credentials."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        fix = "use a folder or an fsspec URL, and install its package (finch-hub[s3] for s3://)"
        raise errors.InvalidSpec(errors.Problem(where="artifacts_url", what=str(error), fix=fix)) from None
    except Exception as error:  # some implementations connect at once, and each raises errors of its own
        protocol = url.partition("://")[0]  # the rest may hold a password
        raise errors.Unavailable(f"artefact store {protocol}://…: {type(error).__name__}: {error}") from error
    name = str(filesystem.unstrip_protocol(root))
    if isinstance(filesystem, LocalFileSystem):
        return LocalFiles(Path(root)), name
    return ObjectFiles(filesystem, root), name


def _blob(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _tree(digest: str) -> str:
    return f"trees/{digest[:2]}/{digest}"


def _measure(stream: BinaryIO, copy: BinaryIO | None = None) -> Entry:
    """Read a stream to its end, perhaps copying it, and return its digest and size."""
    hashed, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        hashed.update(chunk)
        size += len(chunk)
        if copy is not None:
            copy.write(chunk)
    return Entry(digest=hashed.hexdigest(), size=size)


def _regular_files(folder: Path) -> list[Path]:
    """Return a folder's files, sorted.

    Raises:
        RefusedArtifact: with every entry that is not a plain file or folder of a safe name.

    """
    found: list[Path] = []
    problems: list[errors.Problem] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            problems.append(errors.Problem(where=name, what="is no plain file"))
        elif path.is_file():
            try:
                _safe(name)
            except errors.RefusedArtifact as error:
                problems.extend(error.problems)
            else:
                found.append(path)
    if problems:
        raise errors.RefusedArtifact(problems, subject=str(folder))
    return found


def _safe(name: Any) -> str:
    """Return a tree's file name if it stays inside the tree on every system."""
    parts = name.split("/") if isinstance(name, str) else [""]
    if any(part in ("", ".", "..") or not part.isprintable() or set(part) & set('\\:*?"<>|') for part in parts):
        raise errors.RefusedArtifact(errors.Problem(where=repr(name), what="is no safe file name"))
    return "/".join(parts)


def _holds(folder: Path, entries: Mapping[str, Entry]) -> bool:
    """Tell whether a folder laid out earlier still has exactly these bytes."""
    for name, entry in entries.items():
        try:
            with (folder / name).open("rb") as stream:
                if _measure(stream) != entry:
                    return False
        except OSError:
            return False
    return True


def _publish(part: Path, final: Path, entries: Mapping[str, Entry]) -> None:
    """Give a finished folder its name; a good one that another process has put there stays, a damaged one goes."""
    try:
        part.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _holds(final, entries):
            return
        aside = part.with_name(f"{part.name}.old")
        final.rename(aside)
        part.rename(final)
        shutil.rmtree(aside, ignore_errors=True)
