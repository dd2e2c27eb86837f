"""The adapter in a folder, an archive or a file, and what lies beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from finch_hub import errors
from finch_hub.artifacts import archives
from finch_hub.formats.finch_record import RECORD
from finch_hub.formats.parsing_process import Limits, parse
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.formats.regular_files import find_links_out, open_regular_file
from finch_hub.texts.visible_text import to_line

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_. -]{1,100}")
_MAX_DEPTH = 8
_SHOWN = 12
_LIMITS = Limits()


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


class _Files(NamedTuple):
    """Files of one adapter as in `AdapterSource`, by their paths in a folder or archive."""

    shown: str
    weights: PurePosixPath
    config: PurePosixPath | None
    record: PurePosixPath | None
    leftovers: tuple[str, ...]


def find_adapter(source: Path, scratch: Path, *, max_bytes: int) -> AdapterSource:
    """Find the only adapter of a source. No path or link in it is followed.

    Args:
        source: a PEFT folder or its config or weights, a folder or archive with one somewhere inside, or one
            safetensors file.
        scratch: folder that does not exist yet, for the files of an archive.
        max_bytes: of the files of an archive, unpacked.

    Raises:
        RefusedArtifact: there is no adapter, there are several, or its weights are a pickle.
    """
    if archives.is_archive(source):
        options: Any = {"limits": _LIMITS, "error": errors.RefusedArtifact, "subject": source.name}
        (text,) = parse(_extract, str(source), str(scratch), max_bytes, **options)
        found = json.loads(text)
        config, record = (scratch / name if found[name] else None for name in (CONFIG, RECORD))
        weights, leftovers = scratch / Path(found["weights"]).name, tuple(map(str, found["leftovers"]))
        return AdapterSource(
            shown=str(found["shown"]), weights=weights, config=config, record=record, leftovers=leftovers
        )
    if source.name == CONFIG or (source.name == WEIGHTS and (source.parent / CONFIG).is_file()):
        source = source.parent
    if source.is_dir():
        found = _find(_walk(source), source.name or str(source), f"import the folder of one of them, in {source}")
        config, record = (None if path is None else source / path for path in (found.config, found.record))
        weights = source / found.weights
        files = [path for path in (weights, config, record) if path is not None]
        if problems := find_links_out(source, files):
            raise errors.RefusedArtifact(problems, subject=found.shown)
        return AdapterSource(
            shown=found.shown, weights=weights, config=config, record=record, leftovers=found.leftovers
        )
    name = source.name.lower()
    if name.endswith(_PICKLES):
        what = f"is a {source.suffix} file, a pickle, which can run code when it is loaded"
        raise errors.RefusedArtifact(what, fix="save the adapter with safetensors", subject=source.name)
    if name.endswith(archives.OTHER_SUFFIXES):
        what = f"is a {source.suffix} archive, which is not supported"
        raise errors.RefusedArtifact(what, fix="make a .zip or .tar.gz of it", subject=source.name)
    if name.endswith(".gguf"):
        raise gguf_error(source.name)
    if not name.endswith(".safetensors") and not _looks_like_safetensors(source):
        fix = "give a PEFT folder, an archive of one, or a .safetensors file"
        raise errors.RefusedArtifact("is not an adapter", fix=fix, subject=source.name)
    return AdapterSource(shown=source.name, weights=source, config=None, record=None, leftovers=())


def _looks_like_safetensors(file: Path) -> bool:
    """Tell whether the length of a header and the beginning of its JSON lead a file."""
    with open_regular_file(file) as stream:
        return stream.read(9)[8:] == b"{"


def _extract(archive_file: str, folder: str, max_bytes: int) -> Iterator[str]:
    """Write the files of an archive's adapter to a folder, each under a plain name, and nothing else. Yield JSON."""
    source, scratch = Path(archive_file), Path(folder)
    with archives.open_archive(source, max_bytes=max_bytes) as archive:
        # Names in an archive may be longer than a file system allows, or have no form in it.
        files = [path for path in map(PurePosixPath, archive.files) if len(path.parts) <= _MAX_DEPTH + 1]
        found = _find(files, source.name, "unpack it, and import the folder of one of them")
        scratch.mkdir(parents=True)
        is_plain = _PLAIN_NAME.fullmatch(found.weights.name) is not None
        weights = scratch / (found.weights.name if is_plain else WEIGHTS)
        config = scratch / CONFIG if found.config is not None else None
        record = scratch / RECORD if found.record is not None else None
        pairs = ((found.weights, weights), (found.config, config), (found.record, record))
        archive.extract({str(path): target for path, target in pairs if path is not None and target is not None})
        leftovers = tuple(sorted({*found.leftovers, *map(to_line, archive.leftovers)}))
    made = {CONFIG: config is not None, RECORD: record is not None, "weights": weights.name}
    yield json.dumps({**made, "shown": found.shown, "leftovers": leftovers})


def _find(files: Sequence[PurePosixPath], shown: str, fix_of_several: str) -> _Files:
    """Find the only adapter among files.

    Args:
        shown: name of their folder or archive in messages.
        fix_of_several: what to do if they are of several adapters.
    """
    chosen = _choose([file.parent for file in files if file.name == CONFIG], shown, fix_of_several)
    if chosen is None:
        return _single_file(files, shown)
    inside = {chosen / CONFIG, chosen / WEIGHTS, chosen / RECORD}.intersection(files)
    own = [file.name for file in files if file.parent == chosen]
    if chosen.parts:
        shown = f"{shown}: {chosen.as_posix()}"
    if chosen / WEIGHTS not in inside:
        fix = f"save the adapter with safetensors, as {WEIGHTS}"
        raise errors.RefusedArtifact(f"has no {WEIGHTS}{_describe_pickles(own)}", fix=fix, subject=shown)
    return _Files(
        shown=shown,
        weights=chosen / WEIGHTS,
        config=chosen / CONFIG,
        record=chosen / RECORD if chosen / RECORD in inside else None,
        leftovers=_leftovers(files, inside, chosen),
    )


def _choose(folders: Sequence[PurePosixPath], shown: str, fix: str) -> PurePosixPath | None:
    """Return the folder of the only adapter. Checkpoints and folders inside of another adapter's do not count."""
    finished = [folder for folder in folders if not any(map(_CHECKPOINT.fullmatch, folder.parts))] or folders
    known = set(finished)
    outer = [folder for folder in finished if known.isdisjoint(folder.parents)]
    if len(outer) > 1:
        names = sorted(folder.as_posix() for folder in outer)
        what = f"holds {len(outer)} adapters: {', '.join(names[:_SHOWN])}{'…' if len(names) > _SHOWN else ''}"
        raise errors.RefusedArtifact(what, fix=fix, subject=shown)
    return outer[0] if outer else None


def _single_file(files: Sequence[PurePosixPath], shown: str) -> _Files:
    """Return the only safetensors file of a folder without a config, whose metadata may hold one."""
    weights = [file for file in files if file.suffix == ".safetensors"]
    if len(weights) == 1 and weights[0].name != WEIGHTS:
        return _Files(
            shown=f"{shown}: {weights[0].as_posix()}",
            weights=weights[0],
            config=None,
            record=None,
            leftovers=_leftovers(files, {weights[0]}, weights[0].parent),
        )
    if any(file.suffix == ".gguf" for file in files):
        raise gguf_error(shown)
    found = _describe_pickles([file.name for file in files])
    fix = f"give a folder with {CONFIG} and {WEIGHTS}, as PEFT saves an adapter"
    raise errors.RefusedArtifact(f"has no {CONFIG}{found}", fix=fix, subject=shown)


def _describe_pickles(names: Sequence[str]) -> str:
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    return f"; it has the pickle {', '.join(pickles[:_SHOWN])}, which can run code" if pickles else ""


def gguf_error(shown: str) -> errors.RefusedArtifact:
    """Return the error of an adapter in GGUF, which llama.cpp reads.

    Args:
        shown: name of its place.
    """
    what, fix = "is a GGUF adapter, which has no config of PEFT", "use the PEFT folder that it was made from"
    return errors.RefusedArtifact(what, fix=fix, subject=shown)


def _leftovers(files: Sequence[PurePosixPath], used: set[PurePosixPath], folder: PurePosixPath) -> tuple[str, ...]:
    """Return the files that are not used, or the outermost of their folders in which nothing is used.

    Args:
        folder: of the used files. Names of what lies in it have no folder.
    """
    return tuple(sorted({to_line(_name_leftover(file, folder)) for file in files if file not in used}))


def _name_leftover(file: PurePosixPath, folder: PurePosixPath) -> str:
    """Return the name that stands for a file, or for the outermost of its folders in which nothing is used."""
    if file == folder:  # an archive can have a file and a folder of one name
        return file.as_posix()
    if file.is_relative_to(folder):
        first, *rest = file.relative_to(folder).parts
        return f"{first}/" if rest else first
    # An archive can also have a file of the name of an outer folder. All its parts are shared.
    pairs = zip(file.parts, folder.parts, strict=False)
    shared = next((n for n, (part, other) in enumerate(pairs) if part != other), len(file.parts) - 1) + 1
    return "/".join(file.parts[:shared]) + ("/" if len(file.parts) > shared else "")


def _walk(root: Path) -> list[PurePosixPath]:
    """Return the paths of the files below a folder, as many as an archive may have."""
    files: list[PurePosixPath] = []
    for folder, folders, names in os.walk(root):
        inside = PurePosixPath(Path(folder).relative_to(root).as_posix())
        is_deepest = len(inside.parts) >= _MAX_DEPTH
        folders[:] = [] if is_deepest else sorted(name for name in folders if not archives.is_leftover(name))
        files += [inside / name for name in sorted(names) if not archives.is_leftover(name)]
        if len(files) > archives.MAX_FILES:
            break
    return files
