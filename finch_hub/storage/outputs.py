"""Outputs of jobs, which reach their submitter through the artifact store if a worker elsewhere made them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.formats.atomic_writes import atomic_file, atomic_folder, check_replaceable, translate_write_errors
from finch_hub.formats.finch_record import read_record
from finch_hub.formats.output_paths import find_existing
from finch_hub.progress import Meter
from finch_hub.specs.outputs import OutputPlace, StoredOutput

if TYPE_CHECKING:
    from finch_hub.artifacts.store import ArtifactStore
    from finch_hub.specs.jobs import Job, OutputSpec

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

FOLDER = "outputs"
"""Folder of the store for outputs that wait for their submitter."""


def find_place(out: Path) -> OutputPlace:
    """Return the place of an output that this process wants.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = find_existing(out.parent)
    return OutputPlace(folder=str(folder), mark=_mark(folder))


def is_here(spec: OutputSpec) -> bool:
    """Tell whether the path of an output means the same folder here as for its submitter, and can be written."""
    if spec.place is None:
        return True
    try:
        return _mark(Path(spec.place.folder)) == spec.place.mark and os.access(spec.place.folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def store_output(made: Path, job: Job, artifacts: ArtifactStore) -> StoredOutput:
    """Store what a job made, a folder or a file. Every attempt has a place of its own.

    Raises:
        RefusedArtifact: the folder has links, devices or unsafe file names.
        StoreUnavailable: the store does not answer, is full or refused.
    """
    name = f"{job.id}-{job.fence}"
    store = artifacts.below(f"{FOLDER}/{name}")
    is_folder = made.is_dir()
    digest = store.put_tree(made if is_folder else made.parent)
    return StoredOutput(
        name=name,
        digest=digest,
        bytes=sum(entry.size for entry in store.tree(digest).values()),
        kind=read_record(made).get("made") if is_folder else None,
        file=None if is_folder else made.name,
    )


def is_saved(job_id: str, out: Path) -> bool:
    """Tell whether a folder has the output of a job. A file does not name its job."""
    return read_record(out).get("job") == job_id


def save_output(stored: StoredOutput, out: Path, artifacts: ArtifactStore, *, replace: bool) -> None:
    """Write a stored output to a path, and remove it from the store. All bytes are verified.

    A path that has the output already is kept: whoever fetched it was killed, or could not remove it from the store.

    Raises:
        MissingArtifact: it is no longer in the store.
        RefusedArtifact: the stored bytes have changed.
        Conflict: the path exists and may not be replaced.
        Unavailable: the store does not answer, or the path cannot be written.
    """
    if replace or not is_saved(stored.name.rpartition("-")[0], out):
        _fetch(stored, out, artifacts.below(f"{FOLDER}/{stored.name}"), replace=replace)
    with contextlib.suppress(errors.StoreUnavailable):  # the output is written, and a sweep removes it later
        artifacts.remove_folder(f"{FOLDER}/{stored.name}")


def _fetch(stored: StoredOutput, out: Path, store: ArtifactStore, *, replace: bool) -> None:
    kind = stored.kind or "output"
    entries = store.tree(stored.digest)
    if stored.file is not None and stored.file not in entries:
        raise errors.MissingArtifact("file of the output", stored.file)
    if stored.file is not None and _has_bytes(out, entries[stored.file].digest):
        return  # a file does not name its job
    check_replaceable(out, kind=kind, replace=replace)
    meter = Meter("MB fetched", stored.bytes, size=10**6)
    if stored.file is not None:
        with translate_write_errors(out):
            if out.is_dir():
                out.rmdir()  # it is empty
            out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(out) as temporary:
                store.save_blob(entries[stored.file].digest, temporary, meter)
        return
    with atomic_folder(out, kind=kind, replace=replace) as folder:
        for name, entry in entries.items():
            store.save_blob(entry.digest, folder / name, meter)


def _has_bytes(file: Path, digest: str) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    with translate_write_errors(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == digest


def _mark(folder: Path) -> str:
    """Return what identifies a folder among all machines and containers, with the user who writes to it.

    A container shares the boot with its host, but its folders are other ones unless they are mounted.
    """
    info = folder.stat()
    return hashlib.sha256(f"{_find_boot()} {info.st_dev} {info.st_ino} {os.geteuid()}".encode()).hexdigest()[:32]


def _find_boot() -> str:
    """Return the id that the kernel got when it started, or the name of a machine without one."""
    try:
        return _BOOT_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return os.uname().nodename
