"""Checkpoints of unfinished jobs in the artifact store, so that another machine continues where a lost one was.

A checkpoint is a folder such as ``step-00000042``. An attempt stores its newest one as ``checkpoints/JOB-FENCE``, an
archive that the next one replaces as a whole. So an attempt that was given up cannot change that of its successor.
"""

from __future__ import annotations

import contextlib
import shutil
import tarfile
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts.archives import open_archive
from finch_hub.artifacts.store import ArtifactStore

FOLDER = "checkpoints"
"""Folder of the store for checkpoints of jobs that have not ended."""


def put(store: ArtifactStore, job_id: str, fence: int, checkpoint: Path, *, archive: Path) -> None:
    """Store the checkpoint of an attempt, and remove those of earlier attempts.

    Args:
        checkpoint: folder that may be renamed or removed meanwhile, but does not change in place.
        archive: path of a temporary file.

    Raises:
        FileNotFoundError: the checkpoint was removed meanwhile.
        StoreUnavailable: the store does not answer, or is full.
        OSError: the archive cannot be written.
    """
    try:
        _pack(checkpoint, archive)
        store.put_named(f"{FOLDER}/{job_id}-{fence}", archive)
    finally:
        archive.unlink(missing_ok=True)
    remove(store, job_id, before=fence)


def fetch(store: ArtifactStore, job_id: str, folder: Path, *, after: int, before: int) -> bool:
    """Add the newest checkpoint of a job to a folder, and return whether there is one.

    Args:
        after: fence of the attempt that this machine has checkpoints of.
        before: fence of the attempt that fetches it.

    Raises:
        RefusedArtifact: no checkpoint is whole.
        StoreUnavailable: the store does not answer, or this machine's disk is full.
    """
    fences = [fence for fence in _find(store, job_id) if after < fence < before]
    refused: errors.FinchError | None = None
    for fence in sorted(fences, reverse=True):
        archive = folder.with_name(f"{folder.name}-{fence}.tar")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            store.fetch_named(f"{FOLDER}/{job_id}-{fence}", archive)
            _unpack(archive, folder)
        except (errors.MissingArtifact, errors.RefusedArtifact) as error:
            refused = error
        else:
            return True
        finally:
            archive.unlink(missing_ok=True)
    if refused is not None:
        raise refused
    return False


def remove(store: ArtifactStore, job_id: str, *, before: int | None = None) -> None:
    """Remove the checkpoints of a job.

    Args:
        before: fence of the attempt whose predecessors' checkpoints are removed; None removes all.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    for fence in _find(store, job_id):
        if before is None or fence < before:
            store.remove_named(f"{FOLDER}/{job_id}-{fence}")


def _find(store: ArtifactStore, job_id: str) -> list[int]:
    """Return the fences of a job's attempts that have stored a checkpoint."""
    names = (name.rpartition("-") for name in store.list_named(FOLDER))
    return [int(fence) for found, _, fence in names if found == job_id and fence.isdecimal()]


def _pack(checkpoint: Path, archive: Path) -> None:
    with contextlib.ExitStack() as closing, tarfile.open(archive, "w") as packed:
        inode = checkpoint.stat().st_ino
        paths = [path for path in sorted(checkpoint.iterdir()) if not path.name.startswith(".")]
        files = [closing.enter_context(path.open("rb")) for path in paths]
        if checkpoint.stat().st_ino != inode:  # otherwise all files were there when they were opened
            raise FileNotFoundError(checkpoint)
        for path, file in zip(paths, files, strict=True):
            packed.addfile(packed.gettarinfo(arcname=f"{checkpoint.name}/{path.name}", fileobj=file), file)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of one checkpoint. It appears when it is whole, unless the folder has one of that name."""
    unfinished = folder / f".{archive.name}"
    unfinished.mkdir()
    try:
        with open_archive(archive, max_bytes=archive.stat().st_size) as opened:
            parts = {name: name.split("/") for name in opened.files}
            checkpoints = {first for first, *_ in parts.values()}
            if len(checkpoints) != 1 or any(len(names) != 2 for names in parts.values()):
                raise errors.RefusedArtifact("is not an archive of one checkpoint", subject=archive.name)
            opened.extract({name: unfinished / names[1] for name, names in parts.items()})
        checkpoint = folder / checkpoints.pop()
        if not checkpoint.exists():
            unfinished.rename(checkpoint)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
