"""Files of bundles: a tar archive of a manifest and of blobs. Equal versions give equal bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finch_hub import errors
from finch_hub.artifacts import archives, bundle_manifest, manifests
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.progress import Meter
from finch_hub.specs.bundles import BundledFile, Manifest

MANIFEST = "bundle.json"
_FOLDER = "blobs"


@dataclass(frozen=True, kw_only=True)
class UnpackedBundle:
    """A bundle whose manifest was checked, and whose files have the hashes that it names.

    Attributes:
        folder: holds each file under its digest.
    """

    manifest: Manifest
    folder: Path

    def find(self, file: BundledFile) -> Path:
        """Return the path of a file."""
        return self.folder / file.digest


def write_bundle(out: Path, manifest: Manifest, store: ArtifactStore) -> None:
    """Write a bundle to a new file. Each blob is verified on its way, in a file beside it.

    Raises:
        MissingArtifact: the store lacks a blob.
        RefusedArtifact: stored bytes have changed.
        OSError: the file cannot be written.
    """
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    files = {file.digest: file for file in list_files(manifest)}
    meter = Meter("MB bundled", sum(file.size for file in files.values()), size=10**6)
    part = out.with_name("blob")
    with tarfile.open(out, "x:", format=tarfile.GNU_FORMAT) as archive:
        data = text.encode()
        _add(archive, MANIFEST, len(data), io.BytesIO(data))
        for digest in sorted(files):
            size = store.save_blob(digest, part, meter)
            with part.open("rb") as stream:
                _add(archive, f"{_FOLDER}/{digest}", size, stream)
            part.unlink()


def _add(archive: tarfile.TarFile, name: str, size: int, stream: BinaryIO) -> None:
    info = tarfile.TarInfo(name)  # without a time and an owner
    info.size = size
    archive.addfile(info, stream)


def list_files(manifest: Manifest) -> Iterable[BundledFile]:
    """Return the files of all versions, with repetitions."""
    samples = [version.samples for version in manifest.versions if version.samples is not None]
    return [*(file for version in manifest.versions for file in (version.files or {}).values()), *samples]


def unpack_bundle(source: Path, folder: Path) -> UnpackedBundle:
    """Check a bundle from anybody, and write its files to a new folder, each under its digest.

    It takes at most as much space as the bundle.

    Raises:
        NotFound: there is no such file.
        RefusedArtifact: it is not a bundle, is damaged, or has what no bundle has.
        Incompatible: a newer version of Finch Hub made it.
    """
    if not source.is_file():
        raise errors.NotFound("bundle", str(source))
    folder.mkdir()
    with archives.open_archive(source, max_bytes=source.stat().st_size) as archive:
        if MANIFEST not in archive.files:
            raise errors.RefusedArtifact(f"has no {MANIFEST}, so it is not a bundle", subject=source.name)
        if archive.size(MANIFEST) > bundle_manifest.MAX_BYTES:
            raise errors.RefusedArtifact("its manifest is longer than that of any bundle", subject=source.name)
        archive.extract({MANIFEST: folder / MANIFEST})
        manifest = bundle_manifest.parse((folder / MANIFEST).read_bytes(), subject=source.name)
        expected = {f"{_FOLDER}/{file.digest}": file for file in list_files(manifest)}
        found = {*archive.files} - {MANIFEST}
        problems = [errors.Problem(where=name, what="is missing") for name in sorted(expected.keys() - found)]
        problems += [errors.Problem(where=repr(name), what="is in no bundle") for name in sorted(found - {*expected})]
        for name in sorted(found & expected.keys()):
            if archive.size(name) != expected[name].size:
                problems.append(errors.Problem(where=name, what="has another size than the manifest says"))
        if problems or archive.leftovers:
            problems += [errors.Problem(where=repr(name), what="is in no bundle") for name in archive.leftovers]
            raise errors.RefusedArtifact(problems, subject=source.name)
        archive.extract({name: folder / file.digest for name, file in expected.items()})
    for name, file in expected.items():
        with (folder / file.digest).open("rb") as stream:
            if manifests.measure(stream).digest != file.digest:
                problems.append(errors.Problem(where=name, what="has another SHA-256 than its name"))
    if problems:
        raise errors.RefusedArtifact(problems, subject=source.name)
    return UnpackedBundle(manifest=manifest, folder=folder)
