"""The adapter in a folder, an archive or a file, and what lies beside it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts import archives
from finch_hub.formats.finch_record import RECORD
from finch_hub.formats.peft_names import CONFIG, WEIGHTS

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_OTHER_ARCHIVES = (".rar", ".7z", ".zst", ".tar.zst")
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_MAX_DEPTH = 8
_SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSource:
    """Files of one adapter.

    Attributes:
        shown: name of the adapter's place in messages.
        weights: safetensors file.
        config: config; None if the weights have it in their metadata.
        record: the hub's own record; None if there is none.
        leftovers: names of the files and folders beside, which are not read.
    """

    shown: str
    weights: Path
    config: Path | None
    record: Path | None
    leftovers: tuple[str, ...]


def find_adapter(source: Path, scratch: Path, *, max_bytes: int) -> AdapterSource:
    """Find the only adapter of a source. No path or link in it is followed.

    Args:
        source: a PEFT folder, a folder or archive with one somewhere inside, or one safetensors file.
        scratch: folder that does not exist yet, for the files of an archive.
        max_bytes: of an archive, unpacked.

    Raises:
        RefusedArtifact: there is no adapter, there are several, or its weights are a pickle.
    """
    if archives.is_archive(source):
        unpacked = archives.unpack(source, scratch, max_bytes=max_bytes)
        return _find_in(unpacked.folder, source.name, unpacked.leftovers)
    if source.is_dir():
        return _find_in(source, source.name or str(source), ())
    name = source.name.lower()
    if name.endswith(_PICKLES):
        what = f"is a {source.suffix} file, a pickle, which can run code when it is loaded"
        raise errors.RefusedArtifact(what, fix="save the adapter with safetensors", subject=source.name)
    if name.endswith(_OTHER_ARCHIVES):
        what = f"is a {source.suffix} archive, which is not supported"
        raise errors.RefusedArtifact(what, fix="make a .zip or .tar.gz of it", subject=source.name)
    if name.endswith(".gguf"):
        raise _gguf(source.name)
    return AdapterSource(shown=source.name, weights=source, config=None, record=None, leftovers=())


def _find_in(root: Path, shown: str, leftovers: Sequence[str]) -> AdapterSource:
    """Find the adapter in a folder or below it."""
    if (root / CONFIG).exists():
        return _at(root, shown, [*(_names_in(root)), *leftovers])
    files = _walk(root)
    folders = [file.parent for file in files if file.name == CONFIG]
    chosen = _choose(folders, shown)
    if chosen is None:
        return _single_file(root, files, shown, leftovers)
    beside = [_beside(file, chosen) for file in files if not file.is_relative_to(chosen)]
    return _at(root / chosen, f"{shown}: {chosen.as_posix()}", [*_names_in(root / chosen), *beside, *leftovers])


def _choose(folders: Sequence[Path], shown: str) -> Path | None:
    """Return the folder of the only adapter. Checkpoints and folders inside of another adapter's do not count."""
    finished = [folder for folder in folders if not any(map(_CHECKPOINT.fullmatch, folder.parts))] or folders
    outer = [
        folder for folder in finished if not any(folder != other and folder.is_relative_to(other) for other in finished)
    ]
    if len(outer) > 1:
        names = sorted(folder.as_posix() for folder in outer)
        what = f"holds {len(outer)} adapters: {', '.join(names[:_SHOWN])}{'…' if len(names) > _SHOWN else ''}"
        raise errors.RefusedArtifact(what, fix="unpack it, and import the folder of one of them", subject=shown)
    return outer[0] if outer else None


def _single_file(root: Path, files: Sequence[Path], shown: str, leftovers: Sequence[str]) -> AdapterSource:
    """Return the only safetensors file of a folder without a config, whose metadata may hold one."""
    weights = [file for file in files if file.suffix == ".safetensors"]
    if len(weights) == 1 and weights[0].name != WEIGHTS:
        others = [_beside(file, weights[0]) for file in files if file != weights[0]]
        return AdapterSource(
            shown=f"{shown}: {weights[0].as_posix()}",
            weights=root / weights[0],
            config=None,
            record=None,
            leftovers=tuple(sorted({*others, *leftovers})),
        )
    if any(file.suffix == ".gguf" for file in files):
        raise _gguf(shown)
    pickles = sorted(file.name for file in files if file.suffix in _PICKLES)
    found = f"; it has the pickle {', '.join(pickles[:_SHOWN])}, which can run code" if pickles else ""
    fix = f"give a folder with {CONFIG} and {WEIGHTS}, as PEFT saves an adapter"
    raise errors.RefusedArtifact(f"has no {CONFIG}{found}", fix=fix, subject=shown)


def _gguf(shown: str) -> errors.RefusedArtifact:
    what, fix = "is a GGUF adapter, which has no config of PEFT", "import the PEFT folder that it was made from"
    return errors.RefusedArtifact(what, fix=fix, subject=shown)


def _at(folder: Path, shown: str, beside: Sequence[str]) -> AdapterSource:
    """Return the files of a PEFT folder."""
    weights = folder / WEIGHTS
    if not weights.exists():
        pickles = sorted(name for name in beside if name.endswith(_PICKLES))
        found = f"; it has the pickle {', '.join(pickles[:_SHOWN])}, which can run code" if pickles else ""
        fix = f"save the adapter with safetensors, as {WEIGHTS}"
        raise errors.RefusedArtifact(f"has no {WEIGHTS}{found}", fix=fix, subject=shown)
    record = folder / RECORD
    return AdapterSource(
        shown=shown,
        weights=weights,
        config=folder / CONFIG,
        record=record if record.exists() else None,
        leftovers=tuple(sorted(set(beside) - {CONFIG, WEIGHTS, RECORD})),
    )


def _names_in(folder: Path) -> list[str]:
    return [f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir()]


def _beside(file: Path, chosen: Path) -> str:
    """Return the file, or its folder that lies beside the chosen path."""
    pairs = zip(file.parts, chosen.parts, strict=False)
    shared = 1 + len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return "/".join(file.parts[:shared]) + ("/" if len(file.parts) > shared else "")


def _walk(root: Path) -> list[Path]:
    """Return the paths of the files below a folder, as many as an archive may have."""
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        inside = Path(folder).relative_to(root)
        is_deepest = len(inside.parts) >= _MAX_DEPTH
        folders[:] = [] if is_deepest else sorted(name for name in folders if not archives.is_leftover(name))
        files += [inside / name for name in sorted(names) if not archives.is_leftover(name)]
        if len(files) > archives.MAX_FILES:
            break
    return files
